//! Verbs that a pod does: it is made, waited for, used, and deleted however that ends.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams};
use stash_crds::access;
use stash_csi::repository::{AccessError, secret_name};
use stash_csi::volume::SnapshotPath;
use stash_fs::cli::output::show_name;
use stash_fs::cli::{CliError, CliResult, Exit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::{ClusterArgs, Place, PodArgs};
use crate::cluster::{Cluster, ask};
use crate::exec::{Consumer, exec, print};
use crate::pod::{self, FOLDER, Wanted};
use crate::snapshot::{Found, find};
use crate::unpack::{Unpacked, unpack};
use crate::{block_on, shell, start};

/// How long the API server may take to delete the pod. Its own deadline comes after all.
const DELETE_DEADLINE: Duration = Duration::from_secs(15);

/// Lists an archive of what is named: of a directory what it holds, of anything else that alone. `$0` is the path.
const ARCHIVE: &str = "if [ -d \"$0\" ] && [ ! -h \"$0\" ]; then cd \"$0\" && exec tar cf - .; fi
parent=${0%/*}; cd \"${parent:-/}\" && exec tar cf - \"./${0##*/}\"";

/// What is done.
#[derive(Debug)]
pub(crate) enum Work {
    /// A shell.
    Shell,
    /// A directory is listed.
    List,
    /// A file is printed.
    Print,
    /// A file or directory is copied to a directory here.
    Download(PathBuf),
}

/// Does it in a pod.
///
/// # Errors
///
/// There is no such snapshot, no pod, or it failed there.
pub(crate) fn run(options: &ClusterArgs, place: &Place, args: &PodArgs, work: Work) -> CliResult<u8> {
    block_on(async {
        let mut signals = Signals::new()?;
        tokio::select! {
            biased;
            () = signals.next() => Err(CliError::interrupted()),
            prepared = prepare(options, place) => {
                let (cluster, found) = prepared?;
                with_pod(&cluster, &found, &place.path, args, work, &mut signals).await
            }
        }
    })
}

/// Finds all that the pod needs.
async fn prepare(options: &ClusterArgs, place: &Place) -> CliResult<(Cluster, Found)> {
    let cluster = Cluster::connect(options).await?;
    let found = find(&cluster, place).await?;
    let backend = &found.repository.spec.backend;
    let shown = format!("{}/{}", cluster.namespace, found.repository_name());
    // The driver would say the same, later.
    access::provider(backend).map_err(|problem| CliError::failure(format!("the Repository {shown}: {problem}")))?;
    if backend.local.is_some() {
        return Err(CliError::failure(AccessError::Local(shown).to_string())
            .hint("restore it by a RestoreSession, whose Job mounts that volume"));
    }
    Ok((cluster, found))
}

async fn with_pod(
    cluster: &Cluster,
    found: &Found,
    path: &SnapshotPath,
    args: &PodArgs,
    work: Work,
    signals: &mut Signals,
) -> CliResult<u8> {
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &cluster.namespace);
    // Known before it is made, so that it is deleted even where the answer is lost.
    let name = format!("stash-browse-{:08x}", rand::random::<u32>());
    let object = pod::pod(&Wanted {
        name: &name,
        repository: found.repository_name(),
        secret: secret_name(&found.repository),
        snapshot: &found.id,
        image: &args.image,
        lifetime: args.lifetime,
    });
    let what = format!("create the pod {}/{name}", cluster.namespace);
    let mut was_refused = false;
    let result = tokio::select! {
        biased;
        () = signals.next() => Err(CliError::interrupted()),
        result = async {
            ask(&what, async {
                let answer = pods.create(&PostParams::default(), &object).await;
                was_refused = matches!(&answer, Err(kube::Error::Api(_)));
                answer
            })
            .await?;
            start::wait(cluster, &pods, &name, args.start_timeout).await?;
            use_pod(&pods, &name, found, path, work).await
        } => result,
    };
    // After any answer but a refusal there may be a pod.
    if !was_refused {
        delete(cluster, &pods, &name).await;
    }
    result
}

/// Does the work in a pod that runs.
async fn use_pod(pods: &Api<Pod>, pod: &str, found: &Found, path: &SnapshotPath, work: Work) -> CliResult<u8> {
    let inside = inside(path);
    let command = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    match work {
        Work::Shell => {
            eprintln!("snapshot {} is at {FOLDER}, read-only; `exit` removes the pod", found.shown());
            shell::shell(pods, pod, &inside).await
        }
        Work::List => Ok(exec(pods, pod, command(&["ls", "-la", &inside]), Consumer::start(print)).await?.0),
        Work::Print => Ok(exec(pods, pod, command(&["cat", &inside]), Consumer::start(print)).await?.0),
        Work::Download(target) => {
            let shown = show_name(target.as_os_str().as_encoded_bytes());
            let consumer = Consumer::start(move |chunks| unpack(chunks, &target));
            let (code, unpacked) = exec(pods, pod, command(&["sh", "-c", ARCHIVE, &inside]), consumer).await?;
            downloaded(code, &unpacked, path, &shown)
        }
    }
}

/// Tells how a download ended.
fn downloaded(code: u8, unpacked: &Unpacked, path: &SnapshotPath, target: &str) -> CliResult<u8> {
    let shown = show_name(path.as_str().as_bytes());
    if code != 0 && unpacked.taken == 0 {
        return Err(CliError::failure(format!("nothing of {shown} was downloaded: tar in the pod ended with {code}"))
            .hint("`kubectl stash ls` shows what the snapshot has"));
    }
    println!("Downloaded {} files/dirs to {target}", unpacked.taken);
    if code == 0 && unpacked.failed == 0 {
        return Ok(Exit::Success as u8);
    }
    eprintln!("kubectl stash: not all of {shown} was downloaded; what is missing is named above");
    Ok(Exit::Incomplete as u8)
}

/// Returns where a path of the snapshot is in the pod.
fn inside(path: &SnapshotPath) -> String {
    match path.as_str() {
        "/" => FOLDER.to_owned(),
        below => format!("{FOLDER}{below}"),
    }
}

/// Deletes the pod. That there is none is no failure: it may not have been made.
async fn delete(cluster: &Cluster, pods: &Api<Pod>, name: &str) {
    let deleted = tokio::time::timeout(DELETE_DEADLINE, pods.delete(name, &DeleteParams::default())).await;
    let why = match deleted {
        Ok(Ok(_)) => return,
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer in {} s", DELETE_DEADLINE.as_secs()),
    };
    eprintln!(
        "kubectl stash: the pod {name} was not deleted: {why}\nhint: `kubectl delete pod -n {} {name}` deletes it",
        cluster.namespace
    );
}

/// The signals that end the work, and not the process before the pod is deleted.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> CliResult<Self> {
        let listen = |kind| signal(kind).map_err(|error| CliError::failure(format!("listen for signals: {error}")));
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            // The terminal is gone.
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_where_a_path_is_in_the_pod() {
        for (path, expected) in [("/", "/snapshot"), ("/a b/c", "/snapshot/a b/c"), ("a//b/", "/snapshot/a/b")] {
            assert_eq!(inside(&SnapshotPath::parse(path).unwrap()), expected);
        }
    }

    #[test]
    fn test_how_a_download_ends() {
        let path = SnapshotPath::parse("/a").unwrap();
        for (code, taken, failed, expected) in [
            (0, 2, 0, Some(Exit::Success)),
            (0, 0, 0, Some(Exit::Success)),
            (1, 2, 0, Some(Exit::Incomplete)),
            (0, 2, 1, Some(Exit::Incomplete)),
            (1, 0, 0, None),
        ] {
            let ended = downloaded(code, &Unpacked { taken, failed }, &path, "target").ok();
            assert_eq!(ended, expected.map(|exit| exit as u8), "{code} {taken} {failed}");
        }
    }

    #[test]
    fn test_the_archive_is_of_what_is_named() {
        let folder = std::env::temp_dir().join(format!("stash-kubectl-archive-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("d")).unwrap();
        std::fs::write(folder.join("d/file"), "x").unwrap();
        std::os::unix::fs::symlink("d", folder.join("link")).unwrap();
        for (path, expected) in
            [("d", &["./", "./file"][..]), ("d/file", &["./file"]), ("link", &["./link"]), ("none", &[])]
        {
            let output =
                std::process::Command::new("sh").args(["-c", ARCHIVE]).arg(folder.join(path)).output().unwrap();
            let names: Vec<String> = tar::Archive::new(&output.stdout[..])
                .entries()
                .unwrap()
                .map_while(Result::ok)
                .map(|entry| String::from_utf8_lossy(&entry.path_bytes()).into_owned())
                .collect();
            assert_eq!(names, expected, "{path}");
            assert_eq!(output.status.success(), !expected.is_empty(), "{path}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
