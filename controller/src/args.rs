//! The command line.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;

use crate::context::Options;
use crate::go_duration::{self, DurationError};
use crate::jobs;
use crate::repository::backend::AddressRule;

/// Keeps Stash's API: takes backups by schedule, as Jobs.
#[derive(Clone, Debug, Parser)]
#[command(name = "stash-controller", version)]
pub struct Args {
    /// The image of Jobs, which holds stash-fs.
    #[arg(long)]
    pub image: String,
    /// Where it runs, and Jobs that read what only a node has; without it the namespace of its account.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: Option<String>,
    /// Under which name it takes the Lease by which one of several acts. Who comes back under the same goes on at once.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
    /// The Lease, in its own namespace.
    #[arg(long, default_value = "stash-controller")]
    pub lease: String,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// How long after their time sessions begin at most, always the same for a configuration.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub jitter: Duration,
    /// How many sessions run at most; without it any number.
    #[arg(long)]
    pub max_running_sessions: Option<usize>,
    /// How many backups run on a node at most, of those that have to run there because a volume can be read nowhere else; without it any
    /// number.
    #[arg(long)]
    pub max_running_per_node: Option<usize>,
    /// A host of a backend that is allowed, though it is of the machine, of the link or of the cluster's API.
    #[arg(long = "allow-address", value_name = "HOST")]
    pub allowed_addresses: Vec<String>,
    /// How many objects of a kind are looked at at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: u16,
    /// How often the snapshots of a repository are listed where nothing says that they changed.
    #[arg(long, default_value = "10m", value_parser = duration)]
    pub snapshot_sync: Duration,
    /// The StorageClass of the CSI driver, for restores whose claims are the snapshot itself.
    #[arg(long, default_value = "stash-snapshot", value_name = "NAME")]
    pub storage_class: String,
    /// Every node on which Jobs run has the CSI driver: Jobs that copy read snapshots through it where they can, without credentials.
    #[arg(long)]
    pub copy_by_volume: bool,
    /// Workloads whose pods run are restored when these start anew, by an init container, where Jobs could read through the driver; else
    /// by Jobs beside pods that run.
    #[arg(long, requires = "copy_by_volume")]
    pub restore_at_start: bool,
    /// What is logged, as RUST_LOG says it.
    #[arg(long, env = "RUST_LOG", default_value = "warn,stash_controller=info")]
    pub log: String,
    /// Whether logs are one JSON object a line.
    #[arg(long)]
    pub log_json: bool,
}

fn duration(text: &str) -> Result<Duration, DurationError> {
    go_duration::parse(text)
}

impl Args {
    /// Returns what reconcilers need to know of it. `api_server` is the host by which pods reach the API server.
    /// `own_namespace` is that of its account.
    pub fn options(&self, api_server: Option<String>, own_namespace: &str) -> Options {
        Options {
            jobs: jobs::Settings { image: self.image.clone() },
            jitter: self.jitter,
            max_running: self.max_running_sessions,
            max_running_per_node: self.max_running_per_node,
            addresses: AddressRule {
                allowed: self.allowed_addresses.clone(),
                api_servers: api_server.into_iter().collect(),
            },
            concurrency: self.concurrency,
            release_namespace: self.namespace.clone().unwrap_or_else(|| own_namespace.to_owned()),
            storage_class: self.storage_class.clone(),
            copy_by_volume: self.copy_by_volume,
            restore_at_start: self.restore_at_start,
            // Listing all the time helps nobody.
            snapshot_sync: self.snapshot_sync.max(Duration::from_secs(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
        let args =
            Args::parse_from(["stash-controller", "--image", "i", "--jitter", "1m30s", "--allow-address", "10.0.0.1"]);
        let options = args.options(Some("10.0.0.1".to_owned()), "stash");
        assert_eq!((options.jitter.as_secs(), options.concurrency), (90, 16));
        assert!(Args::try_parse_from(["stash-controller"]).is_err());
        assert!(Args::try_parse_from(["stash-controller", "--image", "i", "--jitter", "soon"]).is_err());
    }
}
