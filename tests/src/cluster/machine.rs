//! What a cluster could leave on a machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::fixture::run;

/// The machine's mounts, links, routes, rules, network namespaces and who is in them, control groups, settings and files, as
/// far as the programs of a node touch them.
#[derive(Debug, Clone)]
pub struct Machine {
    facts: BTreeSet<String>,
}

/// The settings that the programs of a node would change.
const SETTINGS: [&str; 6] = [
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/ip_forward",
    "net/netfilter/nf_conntrack_max",
    "vm/overcommit_memory",
];

/// The paths that the programs of a node make by default, or ours.
const PATHS: [&str; 12] = [
    "/etc/cni/net.d",
    "/etc/kubernetes",
    "/opt/containerd",
    "/run/containerd",
    "/run/netns",
    "/usr/libexec/kubernetes",
    "/var/lib/cni",
    "/var/lib/etcd/member",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
    super::STATE,
];

impl Machine {
    /// Looks at it.
    pub fn observe() -> Self {
        let mut facts = BTreeSet::new();
        let mut add = |kind: &str, lines: &str| {
            for line in lines.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with('#')) {
                facts.insert(format!("{kind}: {line}"));
            }
        };
        // Other tests mount below the folder for temporary files.
        let temporary = std::env::temp_dir().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts: Vec<&str> = mounts.lines().filter(|line| !line.contains(&format!(" {temporary}/"))).collect();
        add("mount", &mounts.join("\n"));
        add("link", &run(Command::new("ip").args(["-brief", "link"])));
        add("route", &run(Command::new("ip").args(["route"])));
        for save in ["iptables-save", "iptables-legacy-save", "ip6tables-save"] {
            // Chains without their counters.
            let rules = run(&mut Command::new(save));
            let rules: Vec<&str> = rules.lines().map(|line| line.split(" [").next().unwrap_or(line)).collect();
            add(save, &rules.join("\n"));
        }
        add("process", &foreign_processes().join("\n"));
        for setting in SETTINGS {
            let value = fs::read_to_string(Path::new("/proc/sys").join(setting)).unwrap_or_default();
            add(setting, &value);
        }
        add("path", &PATHS.into_iter().filter(|path| Path::new(path).exists()).collect::<Vec<_>>().join("\n"));
        for group in ["kubepods", "stash-fs-cluster"] {
            let groups = run(Command::new("find").args(["/sys/fs/cgroup", "-maxdepth", "2", "-name", group]));
            add("control group", &groups);
        }
        Self { facts }
    }

    /// What is there now and was not before, in words.
    pub fn since(&self, before: &Self) -> Vec<String> {
        self.facts.difference(&before.facts).cloned().collect()
    }
}

/// The processes of other network namespaces than ours.
fn foreign_processes() -> Vec<String> {
    let ours = fs::read_link("/proc/self/ns/net").unwrap();
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let path = entry.ok()?.path();
        let network = fs::read_link(path.join("ns/net")).ok()?;
        let name = fs::read_to_string(path.join("comm")).ok()?;
        (network != ours).then(|| format!("{} {} {}", path.display(), network.display(), name.trim()))
    });
    processes.collect()
}
