//! The node daemon by its control API: `stash-fs serve`, over a Unix socket.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use stash_control::control_client::ControlClient;
use stash_control::{
    Code, Connection, ListRequest, MountRequest as Request, Overlay, PodVolume, Repository, StatsRequest, Status,
    UnmountRequest, WarmRequest, mount_request,
};
use tokio::sync::Mutex;

use crate::daemon::{DaemonError, DaemonErrorKind, DaemonStats, MountRequest, Mounted, NodeDaemon};
use crate::names::{MountName, SnapshotId};
use crate::target::TargetPath;
use crate::volume::Mode;

/// How long a mount may take: a large repository is opened, its index read. Less than kubelet waits.
const MOUNT_DEADLINE: Duration = Duration::from_secs(100);
/// How long anything else may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// The name below the volume's folder on which kubelet wants a volume; the only one on which a daemon mounts.
const LEAF: &str = "mount";

/// The node daemon behind a socket. It is connected to when it is asked something, and again when it was another process meanwhile.
#[derive(Debug)]
pub struct Control {
    socket: PathBuf,
    client: Mutex<Option<ControlClient<Connection>>>,
}

impl Control {
    /// Asks the daemon that listens at `socket`.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, client: Mutex::default() }
    }

    /// Returns a connection. An old one is tried with a question that changes nothing: what changes something is sent once.
    async fn client(&self) -> Result<ControlClient<Connection>, DaemonError> {
        let mut kept = self.client.lock().await;
        if let Some(client) = kept.as_mut()
            && within(DEADLINE, client.stats(StatsRequest {})).await.is_ok()
        {
            return Ok(client.clone());
        }
        let away = |error: std::io::Error| {
            DaemonError::new(DaemonErrorKind::Unavailable, format!("{}: {error}", self.socket.display()))
        };
        let client = stash_control::connect(&self.socket).await.map_err(away)?;
        *kept = Some(client.clone());
        Ok(client)
    }
}

async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, DaemonError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner).map_err(|status| error(&status)),
        Err(_) => {
            Err(DaemonError::new(DaemonErrorKind::Unavailable, format!("no answer within {} s", deadline.as_secs())))
        }
    }
}

fn error(status: &Status) -> DaemonError {
    let kind = match status.code() {
        Code::InvalidArgument | Code::OutOfRange => DaemonErrorKind::Invalid,
        Code::AlreadyExists => DaemonErrorKind::Exists,
        Code::Aborted => DaemonErrorKind::Busy,
        Code::FailedPrecondition | Code::Unimplemented => DaemonErrorKind::Precondition,
        Code::Unauthenticated => DaemonErrorKind::Unauthenticated,
        Code::NotFound => DaemonErrorKind::NotFound,
        Code::ResourceExhausted => DaemonErrorKind::Exhausted,
        // What broke off may have been done.
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => DaemonErrorKind::Unavailable,
        Code::Ok | Code::PermissionDenied | Code::Internal | Code::DataLoss => DaemonErrorKind::Internal,
    };
    DaemonError::new(kind, status.message())
}

/// Translates a request. Pure.
///
/// # Errors
///
/// It asks for what the daemon does not have.
fn translated(request: &MountRequest) -> Result<Request, DaemonError> {
    let lacks = |what: &str| DaemonError::new(DaemonErrorKind::Precondition, what);
    if request.repository.insecure_tls {
        return Err(lacks("it does not take certificates unseen (insecureTLS); put the authority's into CA_CERT_DATA"));
    }
    let place = request.target.pod_volume().filter(|place| place.leaf == LEAF);
    let place = place.ok_or_else(|| lacks("it mounts on volumes of pods in kubelet's directory only"))?;
    let path = request.path.as_str();
    let snapshot = match path {
        "/" => request.snapshot.to_string(),
        _ => format!("{}:{path}", request.snapshot),
    };
    Ok(Request {
        name: request.name.to_string(),
        repository: Some(Repository {
            address: request.repository.address.clone(),
            password: request.repository.password.to_string(),
            environment: request
                .repository
                .environment
                .iter()
                .map(|(key, value)| (key.clone(), value.to_string()))
                .collect(),
            options: request.repository.options.clone(),
            ca_certificates: request.repository.ca_certificates.clone().unwrap_or_default(),
        }),
        snapshot,
        uid: request.ownership.uid,
        gid: request.ownership.gid,
        hosts: Vec::new(),
        // 0 is what the daemon has for all.
        overlay: (request.mode == Mode::Overlay)
            .then(|| Overlay { scratch_bytes: request.scratch_bytes.unwrap_or_default() }),
        place: Some(mount_request::Place::Pod(PodVolume {
            uid: place.uid.to_owned(),
            volume: place.volume.to_owned(),
        })),
    })
}

#[async_trait]
impl NodeDaemon for Control {
    async fn mount(&self, request: &MountRequest) -> Result<(), DaemonError> {
        let message = translated(request)?;
        let mut client = self.client().await?;
        within(MOUNT_DEADLINE, client.mount(message)).await?;
        if request.prefetch {
            // It goes on at the daemon when nobody waits for it.
            let warm = WarmRequest { name: request.name.to_string(), path: "/".to_owned() };
            let name = request.name.clone();
            drop(tokio::spawn(async move {
                if let Err(error) = client.warm(warm).await {
                    tracing::warn!(mount = %name, error = error.message(), "a volume was not fetched ahead");
                }
            }));
        }
        Ok(())
    }

    async fn unmount(&self, name: &MountName, _: &TargetPath) -> Result<(), DaemonError> {
        let mut client = self.client().await?;
        let ask = |lazy: bool| UnmountRequest { name: name.to_string(), lazy };
        match within(DEADLINE, client.unmount(ask(false))).await {
            // Kubelet asks when the pod has ended. Whoever still looks at it must not hold up the next pod.
            Err(error) if error.kind == DaemonErrorKind::Precondition => {
                within(DEADLINE, client.unmount(ask(true))).await.map(drop)
            }
            answer => answer.map(drop),
        }
    }

    async fn list(&self) -> Result<Vec<Mounted>, DaemonError> {
        let mounts = within(DEADLINE, self.client().await?.list(ListRequest {})).await?.mounts;
        // The daemon serves others too; what is not named as ours is not ours.
        let ours = mounts.into_iter().filter_map(|mount| {
            let name = MountName::parse(&mount.name)?;
            let snapshot = SnapshotId::parse(&mount.snapshot);
            Some(Mounted { name, snapshot, trouble: Some(mount.trouble).filter(|trouble| !trouble.is_empty()) })
        });
        Ok(ours.collect())
    }

    async fn stats(&self) -> Result<DaemonStats, DaemonError> {
        let stats = within(DEADLINE, self.client().await?.stats(StatsRequest {})).await?;
        Ok(DaemonStats { memory_limit_bytes: stats.memory_limit_bytes })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use zeroize::Zeroizing;

    use super::*;
    use crate::daemon::RepositoryAccess;
    use crate::names::VolumeId;
    use crate::volume::{Ownership, SnapshotPath};

    fn request(target: &str) -> MountRequest {
        let target = TargetPath::parse(target, Path::new("/k")).unwrap();
        MountRequest {
            name: MountName::of(&VolumeId::parse("v").unwrap(), &target),
            target,
            repository: RepositoryAccess {
                address: "s3:host/b".to_owned(),
                password: Zeroizing::new("geheim".to_owned()),
                ..RepositoryAccess::default()
            },
            snapshot: SnapshotId::parse(&"0a".repeat(32)).unwrap(),
            path: SnapshotPath::parse("/data").unwrap(),
            mode: Mode::ReadOnly,
            scratch_bytes: None,
            ownership: Ownership { uid: Some(1000), gid: None },
            prefetch: false,
        }
    }

    const TARGET: &str = "/k/pods/u-1/volumes/kubernetes.io~csi/data/mount";

    #[test]
    fn test_what_the_daemon_is_asked_for() {
        let asked = translated(&request(TARGET)).unwrap();
        assert_eq!(asked.snapshot, format!("{}:/data", "0a".repeat(32)));
        assert_eq!((asked.uid, asked.gid), (Some(1000), None));
        let place = PodVolume { uid: "u-1".to_owned(), volume: "data".to_owned() };
        assert_eq!(asked.place, Some(mount_request::Place::Pod(place)));
        let whole = MountRequest { path: SnapshotPath::default(), ..request(TARGET) };
        assert_eq!(translated(&whole).unwrap().snapshot, "0a".repeat(32));
        for (mode, scratch_bytes, expected) in [
            (Mode::ReadOnly, None, None),
            // As a reader of a volume that can be written.
            (Mode::ReadOnly, Some(7), None),
            (Mode::Overlay, None, Some(Overlay { scratch_bytes: 0 })),
            (Mode::Overlay, Some(7), Some(Overlay { scratch_bytes: 7 })),
        ] {
            let asked = MountRequest { mode, scratch_bytes, ..request(TARGET) };
            assert_eq!(translated(&asked).unwrap().overlay, expected, "{mode:?} {scratch_bytes:?}");
        }
        let mut insecure = request(TARGET);
        insecure.repository.insecure_tls = true;
        for odd in [insecure, request("/k/pods/u-1/volumes/kubernetes.io~csi/data/other"), request("/k/plugins/x")] {
            assert_eq!(translated(&odd).unwrap_err().kind, DaemonErrorKind::Precondition);
        }
    }

    #[tokio::test]
    async fn test_a_daemon_that_is_away_is_unavailable() {
        let folder = tempfile::tempdir().unwrap();
        let error = Control::new(folder.path().join("control.sock")).list().await.unwrap_err();
        assert_eq!(error.kind, DaemonErrorKind::Unavailable);
        assert!(error.message.contains("control.sock"), "{error}");
    }
}
