//! `stash-fs`: a backup is a filesystem.

use std::process::ExitCode;

fn main() -> ExitCode {
    bound_allocator();
    stash_fs::cli::main()
}

/// Keeps glibc's allocator from holding what was freed. It must run before the first thread starts.
///
/// Buffers of blobs come and go by hundreds of MiB. By default glibc gives every thread its own arena, and raises the size
/// from which a buffer is its own mapping, given back when it is freed, up to 32 MiB: both leave memory that nobody uses.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "mallopt(3) has no safe wrapper")]
fn bound_allocator() {
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 2),
        // Setting it at all stops it from growing.
        (libc::M_MMAP_THRESHOLD, 256 << 10),
        (libc::M_TRIM_THRESHOLD, 1 << 20),
    ] {
        // SAFETY: no other thread exists yet, and mallopt only sets a number of the allocator.
        unsafe { libc::mallopt(parameter, value) };
    }
}

#[cfg(not(target_env = "gnu"))]
fn bound_allocator() {}
