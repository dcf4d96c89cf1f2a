//! nice(1) and ionice(1) of this process.

use stash_proto::job::IoNice;

/// How far the class stands left of its data (linux/ioprio.h, `IOPRIO_CLASS_SHIFT`).
const CLASS_SHIFT: u32 = 13;
/// Whose priority is set: a process's or thread's (linux/ioprio.h, `IOPRIO_WHO_PROCESS`).
const WHO_PROCESS: libc::c_int = 1;
/// ioprio_set(2) has classes of its own data only for these two; the best-effort middle is what ionice(1) takes.
const DEFAULT_DATA: i32 = 4;

/// Sets both, for this thread and all that it starts from now on. What cannot be set is said, and no reason not to work.
pub(super) fn set(nice: Option<i32>, ionice: Option<IoNice>) {
    if let Some(nice) = nice
        && let Err(error) = rustix::process::setpriority_process(None, nice)
    {
        tracing::warn!(nice, %error, "the niceness cannot be set");
    }
    if let Some(ionice) = ionice
        && let Err(error) = set_ionice(ionice)
    {
        tracing::warn!(class = ionice.class, data = ionice.class_data, %error, "the priority at disks cannot be set");
    }
}

#[expect(unsafe_code, reason = "ioprio_set(2) has no wrapper")]
fn set_ionice(ionice: IoNice) -> std::io::Result<()> {
    let priority = priority(ionice);
    // SAFETY: the call takes three numbers and touches no memory; 0 stands for this thread.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority) };
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// The classes none and idle have no data.
fn priority(ionice: IoNice) -> libc::c_int {
    let data = match ionice.class {
        1 | 2 => ionice.class_data.unwrap_or(DEFAULT_DATA),
        _ => 0,
    };
    (ionice.class << CLASS_SHIFT) | data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_classes_are_as_the_kernel_has_them() {
        let table =
            [(0, Some(3), 0), (1, Some(0), 0x2000), (2, None, 0x4004), (2, Some(7), 0x4007), (3, Some(5), 0x6000)];
        for (class, class_data, expected) in table {
            assert_eq!(priority(IoNice { class, class_data }), expected);
        }
    }

    #[test]
    fn test_both_are_set_for_threads_that_start_after() {
        // A thread of its own: other tests keep their priority.
        let set = std::thread::spawn(|| {
            set(Some(19), Some(IoNice { class: 3, class_data: None }));
            std::thread::spawn(|| rustix::process::getpriority_process(None).unwrap()).join().unwrap()
        });
        assert_eq!(set.join().unwrap(), 19);
    }
}
