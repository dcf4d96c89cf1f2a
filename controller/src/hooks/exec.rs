//! Commands of hooks, in a container of the target, through the API server.
//!
//! What a command prints is thrown away: nobody knows whether it is a secret. Its exit code is told.

use hyper::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachParams, AttachedProcess};
use kube::client::UpgradeConnectionError;
use kube::{Api, Error};

use crate::errors;
use crate::pauses::until_allowed;

/// How long a text of a container runtime may be in a status.
const TEXT_LIMIT: usize = 256;

/// Runs a command and waits for its end.
///
/// # Errors
///
/// It ended badly, or did not begin: a sentence for the user.
pub async fn exec(pods: &Api<Pod>, pod: &str, container: &str, command: Vec<String>) -> Result<(), String> {
    let parameters = AttachParams::default().container(container).stdin(false).stdout(true).stderr(true);
    let mut process = start(pods, pod, command, &parameters).await?;
    let status = process.take_status();
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let drain_stdout = async {
        if let Some(mut stdout) = stdout {
            // An end of any kind is one; the status tells which.
            drop(tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await);
        }
    };
    let drain_stderr = async {
        if let Some(mut stderr) = stderr {
            drop(tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await);
        }
    };
    let told = async {
        match status {
            Some(status) => status.await,
            None => None,
        }
    };
    let (told, (), ()) = tokio::join!(told, drain_stdout, drain_stderr);
    outcome(told.as_ref())
}

/// Starts a command, as soon as that is allowed.
async fn start(
    pods: &Api<Pod>,
    pod: &str,
    command: Vec<String>,
    parameters: &AttachParams,
) -> Result<AttachedProcess, String> {
    let started = until_allowed(|| pods.exec(pod, command.clone(), parameters), is_forbidden).await;
    started.map_err(|error| {
        if is_forbidden(&error) {
            "the API server does not allow the controller to run commands in this namespace; see docs/hooks.md"
                .to_owned()
        } else {
            format!("the command was not started: {error}")
        }
    })
}

fn is_forbidden(error: &Error) -> bool {
    match error {
        Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) => *status == StatusCode::FORBIDDEN,
        error => errors::is_forbidden(error),
    }
}

/// Tells from what the kubelet says how a command ended.
fn outcome(status: Option<&Status>) -> Result<(), String> {
    let Some(status) = status else {
        return Err("the connection ended before the command did; how that ends is not known".to_owned());
    };
    if status.status.as_deref() == Some("Success") {
        return Ok(());
    }
    let causes = status.details.as_ref().and_then(|details| details.causes.as_deref()).unwrap_or_default();
    let code = causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    match code.and_then(|cause| cause.message.as_deref()).and_then(|code| code.parse::<i32>().ok()) {
        Some(code) => Err(format!("the command ended with exit code {code}")),
        None => {
            let message = status.message.as_deref().unwrap_or("nothing is said why");
            let line = message.chars().map(|c| if c.is_control() { ' ' } else { c });
            Err(format!("the command failed: {}", line.take(TEXT_LIMIT).collect::<String>()))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn test_how_commands_end() {
        let exit = json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated with exit code 3",
            "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}});
        let odd = json!({"status": "Failure", "message": "a\nb", "details": {"causes": [{"reason": "ExitCode", "message": "x"}]}});
        for (status, expected) in [
            (Some(json!({"status": "Success"})), None),
            (Some(exit), Some("the command ended with exit code 3")),
            (Some(odd), Some("the command failed: a b")),
            (Some(json!({"status": "Failure"})), Some("the command failed: nothing is said why")),
            (None, Some("the connection ended before the command did; how that ends is not known")),
        ] {
            let status: Option<Status> = status.map(|status| serde_json::from_value(status).unwrap());
            assert_eq!(outcome(status.as_ref()).err().as_deref(), expected);
        }
    }
}
