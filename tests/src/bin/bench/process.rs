//! The mounts that are measured, as processes: started, waited for, asked for memory and CPU, ended.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The unit of times in /proc/PID/stat: USER_HZ, which Linux fixes at 100 for programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// How long a mount may take to show its tree.
const READY_DEADLINE: Duration = Duration::from_secs(600);

/// A mounted peer, unmounted on drop.
#[derive(Debug)]
pub(crate) struct Mount {
    child: Child,
    at: PathBuf,
    /// From the start of the program until its root could be listed.
    pub ready: Duration,
}

impl Mount {
    /// Starts `program` and waits until `probe` below `at` can be listed.
    pub(crate) fn start(
        program: &Path,
        args: &[OsString],
        env: &[(String, OsString)],
        at: &Path,
        probe: &str,
        log: &Path,
    ) -> Result<Self> {
        fs::create_dir_all(at)?;
        let log = fs::File::create(log)?;
        let before = device(at)?;
        let started = Instant::now();
        let child = Command::new(program)
            .args(args)
            .envs(env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let mut mount = Self { child, at: at.to_owned(), ready: Duration::ZERO };
        loop {
            if let Some(status) = mount.child.try_wait()? {
                bail!("{} ended with {status}", program.display());
            }
            if device(at).is_ok_and(|now| now != before)
                && fs::read_dir(at.join(probe)).is_ok_and(|mut d| d.next().is_some())
            {
                mount.ready = started.elapsed();
                return Ok(mount);
            }
            if started.elapsed() > READY_DEADLINE {
                bail!("{} did not mount in {READY_DEADLINE:?}", program.display());
            }
            pause(Duration::from_millis(2));
        }
    }

    /// The high water mark of memory of the process and its children, in bytes.
    pub(crate) fn memory_high_water(&self) -> Result<u64> {
        self.pids().into_iter().map(memory_high_water).sum()
    }

    /// User and system time of the process and its children so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let mut ticks = 0u64;
        for pid in self.pids() {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let after = stat.rsplit_once(") ").context("stat")?.1;
            let fields: Vec<&str> = after.split(' ').collect();
            // Fields 14 and 15 of proc(5), counted after the name.
            ticks += fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        }
        Ok(Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND))
    }

    fn pids(&self) -> Vec<u32> {
        let mut pids = vec![self.child.id()];
        let mut at = 0;
        while at < pids.len() {
            let pid = pids[at];
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|p| p.parse::<u32>().ok()));
            at += 1;
        }
        pids
    }
}

/// How long each processor of the machine has worked, on average, since it was started: what took no longer than this from
/// one look to the next kept all of them busy.
pub(crate) fn machine_busy() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("cpu "))
        .context("/proc/stat")?
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let processors = stat.lines().filter(|line| line.starts_with("cpu")).count().saturating_sub(1).max(1);
    // user, nice, system; idle and iowait are left out; irq, softirq. proc_stat(5).
    let ticks: u64 = [0, 1, 2, 5, 6].iter().filter_map(|field| fields.get(*field)).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND / processors as f64))
}

/// The most memory that a process has had (`VmHWM` of proc(5)), in bytes.
pub(crate) fn memory_high_water(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).context("no VmHWM")?;
    let kib: u64 = line.split_whitespace().nth(1).context("VmHWM")?.parse()?;
    Ok(kib * 1024)
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.at).status().is_ok_and(|s| s.success());
        if !unmounted {
            let _lazy = Command::new("umount").arg("-l").arg(&self.at).status();
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            pause(Duration::from_millis(5));
        }
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn device(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::metadata(path)?.dev())
}

/// Waits a little between two looks at a condition that has a deadline.
#[expect(clippy::disallowed_methods, reason = "the step of a wait with a deadline")]
pub(crate) fn pause(step: Duration) {
    std::thread::sleep(step);
}
