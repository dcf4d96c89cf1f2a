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

/// Returns the share of a control group's limit that buffers may take, or `wanted_bytes` if that is less.
///
/// Half: the rest is for the index, directories, stacks, the kernel's page cache of our files and the allocator's slack.
#[must_use]
pub fn cap_bytes(wanted_bytes: usize, limit_bytes: Option<u64>) -> usize {
    let Some(limit_bytes) = limit_bytes else { return wanted_bytes };
    wanted_bytes.min(usize::try_from(limit_bytes / 2).unwrap_or(usize::MAX))
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
    fn test_cap_is_half_of_the_limit() {
        assert_eq!(cap_bytes(64, None), 64);
        assert_eq!(cap_bytes(64, Some(100)), 50);
        assert_eq!(cap_bytes(64, Some(1000)), 64);
    }
}
