//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// The CSI driver fs.stash.appscode.com: a snapshot is a volume.
#[derive(Clone, Debug, Parser)]
#[command(name = "stash-csi", version)]
pub struct Args {
    /// The socket on which it serves.
    #[arg(long, default_value = "/csi/csi.sock", env = "CSI_ENDPOINT", value_parser = socket)]
    pub endpoint: PathBuf,
    /// The node that it is on. With it the Node service is served.
    #[arg(long, env = "NODE_NAME")]
    pub node: Option<String>,
    /// Whether the Controller service is served.
    #[arg(long)]
    pub controller: bool,
    /// Whether it makes volumes for claims itself, so that no external-provisioner is needed. One such process does for a cluster.
    #[arg(long)]
    pub provision: bool,
    /// The image that holds `stash-fs`. With it claims of other classes whose dataSourceRef names a Snapshot are populated, by Jobs that copy.
    #[arg(long, requires = "provision", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub image: Option<String>,
    /// The control socket of the node daemon (`stash-fs serve`).
    #[arg(long, default_value = "/run/stash-fs/control.sock")]
    pub daemon: PathBuf,
    /// Kubelet's directory, as kubelet calls it.
    #[arg(long, default_value = "/var/lib/kubelet", value_parser = absolute)]
    pub kubelet_dir: PathBuf,
    /// Where it keeps what was chosen for volumes: a folder that outlives the pod.
    #[arg(long, default_value = "/csi/pins")]
    pub pins: PathBuf,
    /// Kubelet's folder of plugins. With it the driver registers itself, and needs no node-driver-registrar.
    #[arg(long, requires_all = ["node", "kubelet_endpoint"])]
    pub registry: Option<PathBuf>,
    /// The endpoint, as kubelet calls it.
    #[arg(long, value_parser = absolute)]
    pub kubelet_endpoint: Option<PathBuf>,
    /// Whether it takes the taint fs.stash.appscode.com/agent-not-ready off the node when kubelet has taken the driver.
    #[arg(long, requires = "registry")]
    pub remove_taint: bool,
    /// How many volumes the node may have; without it, by the memory of the node daemon.
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    pub max_volumes: Option<i64>,
    /// A host of a backend that is allowed, though it is of the machine, of the link or of the cluster's API.
    #[arg(long = "allow-address", value_name = "HOST")]
    pub allowed_addresses: Vec<String>,
    /// What is logged, as RUST_LOG says it.
    #[arg(long, env = "RUST_LOG", default_value = "warn,stash_csi=info")]
    pub log: String,
    /// Whether logs are one JSON object a line.
    #[arg(long)]
    pub log_json: bool,
}

fn socket(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")).unwrap_or(text);
    absolute(path)
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let plain = text.starts_with('/') && !text.split('/').any(|part| matches!(part, "." | ".."));
    if plain { Ok(PathBuf::from(text)) } else { Err("it must be an absolute path without . and ..".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
        let args = Args::try_parse_from(["stash-csi", "--endpoint", "unix:///a/csi.sock", "--controller"]).unwrap();
        assert_eq!(args.endpoint, PathBuf::from("/a/csi.sock"));
        for wrong in [
            &["--endpoint", "tcp://0.0.0.0:1"][..],
            &["--kubelet-dir", "/var/lib/../kubelet"],
            &["--registry", "/r"],
            &["--remove-taint"],
            &["--max-volumes", "0"],
            &["--image", "stash-fs:1"],
            &["--provision", "--image", ""],
        ] {
            assert!(Args::try_parse_from(["stash-csi"].iter().chain(wrong)).is_err(), "{wrong:?}");
        }
    }
}
