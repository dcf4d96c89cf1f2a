//! Calls a hook: where it acts on pods, for each host at once.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::call::{Action, Call, Endpoint};
use super::network::{self, Server};
use super::template::value::Value;
use super::{exec, pods};
use crate::backup_configuration::validate::{Target, TargetKind};
use crate::go_duration;
use crate::repository::backend::AddressRule;
use crate::workload::Workload;

/// How many pods a message names.
const NAMED: usize = 5;

/// How a hook ended: where it was called, or why it failed. Sentences for the user, without secrets.
pub type Outcome = Result<String, String>;

/// A hook that is called now.
#[derive(Debug)]
pub struct Request {
    /// What is done.
    pub call: Call,
    /// The target.
    pub target: Target,
    /// Its namespace.
    pub namespace: String,
    /// The replicas of a StatefulSet that are hosts.
    pub ordinals: Vec<usize>,
    /// The nodes of a DaemonSet that are hosts.
    pub nodes: Vec<String>,
    /// Whether hosts are no pods: then it is called for each pod of a StatefulSet or DaemonSet.
    pub everywhere: bool,
    /// What templates see.
    pub data: Value,
    /// How long it may take.
    pub limit: Duration,
    /// Which servers are refused.
    pub addresses: AddressRule,
}

/// Calls a hook and waits for its end, or until its time is over.
///
/// # Errors
///
/// It failed for a host, or took too long: a sentence for the user.
pub async fn perform(request: Request, client: Client) -> Outcome {
    match tokio::time::timeout(request.limit, call(&request, &client)).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let rest = if matches!(request.call.action, Action::Exec(_)) { "; the command may still run" } else { "" };
            Err(format!("it did not end within {}{rest}", go_duration::format_rounded(request.limit)))
        }
    }
}

async fn call(request: &Request, client: &Client) -> Outcome {
    if !request.call.needs_pod() {
        return within(request, client, None).await.map(|()| String::new());
    }
    let mut acted_on = Vec::new();
    let mut failed = Vec::new();
    for pod in find(request, client).await? {
        match pod {
            Ok(pod) => acted_on.push(pod),
            Err(why) => failed.push(why),
        }
    }
    // A host that has no pod is known before anything is called, and then nothing is.
    if failed.is_empty() {
        let called = acted_on.iter().map(|pod| async move { (pod, within(request, client, Some(pod)).await) });
        for (pod, outcome) in join_all(called).await {
            if let Err(why) = outcome {
                failed.push(format!("in pod {}: {why}", pod.name_any()));
            }
        }
    }
    if failed.is_empty() {
        let names = acted_on.iter().map(ResourceExt::name_any).collect();
        Ok(if acted_on.is_empty() { " There is no pod.".to_owned() } else { format!(" In pod {}.", listed(names)) })
    } else {
        Err(listed(failed))
    }
}

fn listed(mut all: Vec<String>) -> String {
    let more = all.len().saturating_sub(NAMED);
    all.truncate(NAMED);
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{rest}", all.join("; "))
}

/// Calls a hook in, for or without a pod.
async fn within(request: &Request, client: &Client, pod: Option<&Pod>) -> Result<(), String> {
    let container = pod.map(|pod| pods::container(pod, request.call.container.as_deref())).transpose()?;
    let server = |endpoint: &Endpoint| -> Result<(String, u16), String> {
        let host = match (&endpoint.host, pod) {
            (Some(host), _) => host.clone(),
            (None, Some(pod)) => pods::address(pod)?.to_owned(),
            (None, None) => return Err("there is no pod".to_owned()),
        };
        let port = match (&endpoint.port, container) {
            (super::call::Port::Number(number), _) => *number,
            (port, Some(container)) => pods::port(container, port)?,
            (_, None) => return Err("there is no pod".to_owned()),
        };
        Ok((host, port))
    };
    let addresses = &request.addresses;
    match &request.call.action {
        Action::Exec(words) => {
            let (Some(pod), Some(container)) = (pod, container) else { return Err("there is no pod".to_owned()) };
            let command = words.iter().map(|word| word.render(&request.data)).collect::<Result<Vec<_>, _>>();
            let command = command.map_err(|problem| format!("exec.command: {problem}"))?;
            let api = Api::namespaced(client.clone(), &request.namespace);
            exec::exec(&api, &pod.name_any(), &container.name, command).await
        }
        Action::Http(call) => {
            let (host, port) = server(&call.endpoint)?;
            network::send(call, Server { host: &host, port, addresses }, &request.data).await
        }
        Action::Tcp(endpoint) => {
            let (host, port) = server(endpoint)?;
            network::connect(Server { host: &host, port, addresses }).await.map(drop)
        }
    }
}

/// Returns for each host its pod, or why there is none.
async fn find(request: &Request, client: &Client) -> Result<Vec<Result<Pod, String>>, String> {
    let (namespace, name) = (&request.namespace, request.target.name.as_str());
    if request.target.kind == TargetKind::Claim {
        let all = Api::<Pod>::namespaced(client.clone(), namespace).list(&ListParams::default()).await;
        let all = all.map_err(|error| format!("the pods could not be listed: {error}"))?;
        return Ok(vec![pods::of_claim(name, &all.items).cloned()]);
    }
    let workload = Workload::find(&request.target, namespace, client).await.map_err(|error| error.story())?;
    let Some(workload) = workload else { return Err(format!("{} {name} does not exist", request.target.kind)) };
    let all = workload.pods(namespace, client).await.map_err(|error| error.story())?;
    Ok(match request.target.kind {
        TargetKind::StatefulSet | TargetKind::DaemonSet if request.everywhere => {
            pods::running(&all).cloned().map(Ok).collect()
        }
        TargetKind::StatefulSet => {
            request.ordinals.iter().map(|&ordinal| pods::of_replica(&workload, ordinal, &all).cloned()).collect()
        }
        TargetKind::DaemonSet => {
            request.nodes.iter().map(|node| pods::of_node(&workload, node, &all).cloned()).collect()
        }
        _ => vec![pods::of_workload(&workload, &all).cloned()],
    })
}
