//! How much memory the control group of this process may use.

use std::fs;
use std::path::{Path, PathBuf};

/// A limit at or above this means none: version 1 shows the largest multiple of a page instead of a word.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// Returns the least memory limit of this process's control group and of those above it; `None` where there is none.
///
/// Sources: `cgroups(7)`, `/proc/pid/cgroup`; kernel, `admin-guide/cgroup-v2.rst`, `memory.max`;
/// `admin-guide/cgroup-v1/memory.rst`, `memory.limit_in_bytes`.
#[must_use]
pub fn memory_limit_bytes() -> Option<u64> {
    limit_below(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new("/sys/fs/cgroup"))
}

/// Returns what each of the repositories of a process may take of `wanted_bytes`, so that all together stay within them and
/// within their share of a control group's limit.
///
/// Half of the limit: the rest is for the index, stacks, the kernel's page cache of our files and the allocator's slack.
#[must_use]
pub fn share_bytes(wanted_bytes: usize, limit_bytes: Option<u64>, repositories: usize) -> usize {
    let cap_bytes = limit_bytes.map_or(usize::MAX, |limit| usize::try_from(limit / 2).unwrap_or(usize::MAX));
    wanted_bytes.min(cap_bytes) / repositories.max(1)
}

fn limit_below(proc_cgroup: &str, mount: &Path) -> Option<u64> {
    proc_cgroup
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            if controllers.is_empty() {
                least(mount, path, "memory.max")
            } else if controllers.split(',').any(|name| name == "memory") {
                least(&mount.join("memory"), path, "memory.limit_in_bytes")
            } else {
                None
            }
        })
        .min()
}

/// Reads `name` in the group and in every one above it. Inside a container the path may be one of the host's, which is not
/// there; the mount's root is then our own group.
fn least(mount: &Path, path: &str, name: &str) -> Option<u64> {
    let path = PathBuf::from(path.trim_start_matches('/'));
    path.ancestors()
        .filter(|path| path.components().all(|part| matches!(part, std::path::Component::Normal(_))))
        .filter_map(|path| fs::read_to_string(mount.join(path).join(name)).ok()?.trim().parse::<u64>().ok())
        .filter(|limit| *limit < NO_LIMIT_BYTES)
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_limit_is_the_least_of_group_and_ancestors() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/memory.max", "300000000\n");
        write("a/b/memory.max", "max\n");
        write("memory/docker/x/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/docker/memory.limit_in_bytes", "100\n");
        for (proc_cgroup, expected) in [
            ("0::/a/b\n", Some(300_000_000)),
            ("0::/not/here\n", None),
            ("0::/../a\n", None),
            ("5:cpu,memory:/docker/x\n0::/\n", Some(100)),
            ("5:cpu:/docker/x\n", None),
            ("garbage", None),
            ("", None),
        ] {
            assert_eq!(limit_below(proc_cgroup, dir.path()), expected, "{proc_cgroup:?}");
        }
    }

    #[test]
    fn test_all_repositories_together_take_half_of_the_limit() {
        assert_eq!(share_bytes(64, None, 1), 64);
        assert_eq!(share_bytes(64, Some(100), 1), 50);
        assert_eq!(share_bytes(64, Some(1000), 1), 64);
        assert_eq!(share_bytes(64, None, 4), 16);
        assert_eq!(share_bytes(64, None, 0), 64);
        for repositories in 1..10 {
            assert!(share_bytes(64, Some(100), repositories) * repositories <= 50, "{repositories}");
        }
    }
}
