//! Verbs that are done here: the Repository's Secret is read into memory, and the engine of `stash-fs` reads the store.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use stash_crds::access::AddressRule;
use stash_csi::cluster::{Cluster as _, ClusterError};
use stash_csi::repository::{AccessError, access, secret_name};
use stash_fs::cli::{Access, CliError, CliResult, Exit, run_on};

use crate::args::{Choice, ClusterArgs, Place, StoreArgs};
use crate::block_on;
use crate::cluster::{Cluster, unanswered};
use crate::in_pod::Work;
use crate::snapshot::{Found, find, find_whole};

/// Reads a snapshot: lists, prints or copies what is in it.
///
/// # Errors
///
/// The Secret must not be read, the store cannot be reached, or there is no such file.
pub(crate) fn read(options: &ClusterArgs, place: &Place, store: &StoreArgs, work: Work) -> CliResult<u8> {
    let (found, access) = block_on(async {
        let cluster = Cluster::connect(options).await?;
        let found = find(&cluster, place).await?;
        let access =
            open(&cluster, &found, store, "without --local a pod reads it, and you need no right to the Secret")
                .await?;
        Ok((found, access))
    })?;
    let what = format!("{}:{}", found.id.as_str(), place.path.as_str());
    let arguments: Vec<OsString> = match work {
        // One directory, and a file for itself.
        Work::List => ["ls", "--quiet", "--long", &what, "/"].map(OsString::from).into(),
        Work::Print => ["cat", &what].map(OsString::from).into(),
        Work::Download(target) => {
            ["restore".into(), "--no-owner".into(), "--target".into(), target.into_os_string(), what.into()].into()
        }
        Work::Shell => return Err(CliError::usage("a shell runs in a pod")),
    };
    run_verb(arguments, access, &found, "if this machine cannot reach the store, leave out --local")
}

/// Mounts a snapshot until a signal comes.
///
/// # Errors
///
/// As [`read`]; the mountpoint cannot be mounted on.
pub(crate) fn mount(options: &ClusterArgs, choice: &Choice, store: &StoreArgs, directory: &Path) -> CliResult<u8> {
    let (found, access) = block_on(async {
        let cluster = Cluster::connect(options).await?;
        let found = find_whole(&cluster, choice).await?;
        let access =
            open(&cluster, &found, store, "`kubectl stash browse` shows it in a pod, without a right to the Secret")
                .await?;
        Ok((found, access))
    })?;
    // Nobody else is let in, so that whoever mounts may read all: the files are of users of other machines.
    let mut arguments: Vec<OsString> =
        ["mount", "--no-default-permissions", found.id.as_str()].map(OsString::from).into();
    // As an argument it begins with no dash.
    arguments.push(if directory.is_absolute() { directory.into() } else { Path::new(".").join(directory).into() });
    run_verb(
        arguments,
        access,
        &found,
        "if this machine cannot reach the store, `kubectl stash browse` does in the cluster",
    )
}

/// Reads what opens the repository; `otherwise` is how to do without.
async fn open(cluster: &Cluster, found: &Found, store: &StoreArgs, otherwise: &str) -> CliResult<Access> {
    let (repository, name) = (&found.repository, secret_name(&found.repository));
    let secret = match name {
        "" => None,
        name => match cluster.api().secret(&cluster.namespace, name).await {
            Ok(secret) => secret,
            Err(ClusterError::Forbidden(what)) => {
                return Err(CliError::failure(format!("you may not {what}")).hint(otherwise));
            }
            Err(error) => return Err(unanswered(error)),
        },
    };
    let rule = AddressRule { allowed: store.allowed_addresses.clone(), api_servers: Vec::new() };
    let access = access(repository, secret.as_ref(), &rule).map_err(|error| {
        let failure = CliError::failure(error.to_string());
        match error {
            AccessError::Backend { .. } => failure.hint("--allow-address HOST reaches it all the same"),
            AccessError::Local(_) => failure.hint("restore it by a RestoreSession, whose Job mounts that volume"),
            _ => failure,
        }
    })?;
    Ok(Access {
        address: access.address,
        password: access.password,
        environment: access.environment,
        options: access.options,
        ca_certificates: access.ca_certificates,
        insecure_tls: access.insecure_tls,
        refused: Some(Arc::new(move |host, address| !rule.permits(host, address))),
    })
}

/// Runs a verb of `stash-fs`. Its hints name options that nobody gave here: ours stand for them.
fn run_verb(verb: Vec<OsString>, access: Access, found: &Found, away: &str) -> CliResult<u8> {
    let arguments = std::iter::once("stash-fs".into()).chain(verb).collect();
    match run_on(arguments, access) {
        Ok(exit) => Ok(exit as u8),
        Err(error) => Err(hinted(error, found.repository_name(), away)),
    }
}

fn hinted(error: CliError, repository: &str, away: &str) -> CliError {
    let hint = match error.exit {
        Exit::WrongPassword => {
            Some(format!("RESTIC_PASSWORD of the Secret of the Repository {repository} is not its password"))
        }
        Exit::NoRepository => {
            Some(format!("nothing was backed up to the Repository {repository} yet, or its address is wrong"))
        }
        Exit::Failure if error.hint.is_some() => Some(away.to_owned()),
        _ => None,
    };
    CliError { hint, ..error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_hints_name_what_there_is_here() {
        let error =
            |exit: Exit, hint: Option<&str>| CliError { exit, message: "m".to_owned(), hint: hint.map(str::to_owned) };
        for (exit, hint, expected) in [
            (Exit::WrongPassword, Some("check RESTIC_PASSWORD_FILE"), Some("Secret of the Repository repo")),
            (Exit::NoRepository, Some("check -r"), Some("nothing was backed up")),
            (Exit::Failure, Some("check -r"), Some("away")),
            (Exit::Failure, None, None),
            (Exit::Interrupted, None, None),
        ] {
            let found = hinted(error(exit, hint), "repo", "away").hint;
            assert_eq!(found.is_some(), expected.is_some(), "{exit:?}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()), "{exit:?}");
        }
    }
}
