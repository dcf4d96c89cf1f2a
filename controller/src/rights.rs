//! What the controller may do in a namespace beyond what it may everywhere: for each right a Role and its binding, of a fixed name, that
//! are there as long as something in the namespace needs them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::controller::Action;
use kube::runtime::reflector::Store;
use kube::{Client, Resource, ResourceExt as _};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stash_crds::hooks::Hook;
use stash_crds::{BackupConfiguration, RestoreSession, names as labels};

use crate::context::{Context, MANAGER};
use crate::errors::{ReconcileError, is_not_found};
use crate::restore_session::{self, at_start::Way};
use crate::stores::{Stores, as_ref_of};

/// The API group of Roles.
const GROUP: &str = "rbac.authorization.k8s.io";
/// The label by which the chart's policies tell the Roles of one right from those of the other.
const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// The first and the longest pause after a try that was refused: the policy that judges it sees a Repository a moment after us.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// How often a namespace is looked at that has a right: what needs it may have gone while nobody watched.
const LOOK: Duration = Duration::from_mins(10);
/// After how many refusals in a row somebody is told.
const LOUD: u32 = 5;

/// What the controller may do in a namespace, if something there needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// To read the Secrets that its Repositories name, and no others.
    Secrets,
    /// To run commands in its pods, for hooks.
    Commands,
    /// To change the workloads that its RestoreSessions restore when their pods start.
    Restores,
}

impl Right {
    /// All.
    pub const ALL: [Self; 3] = [Self::Secrets, Self::Commands, Self::Restores];

    /// Returns the name of the Role and of its binding, in each namespace that has it. The chart's policies know it too.
    pub const fn role(self) -> &'static str {
        match self {
            Self::Secrets => "stash-fs-repositories",
            Self::Commands => "stash-fs-hooks",
            Self::Restores => "stash-fs-restores",
        }
    }

    const fn component(self) -> &'static str {
        match self {
            Self::Secrets => "repositories",
            Self::Commands => "hooks",
            Self::Restores => "restores",
        }
    }

    /// Returns what is needed of it in `namespace`.
    fn needed(self, namespace: &str, stores: &Stores) -> Option<PolicyRule> {
        match self {
            Self::Secrets => secrets_rule(&stores.secrets_named_in(namespace)),
            Self::Commands => are_commands_needed(namespace, stores).then(commands_rule),
            Self::Restores => restores_rule(&restored_in(namespace, stores)),
        }
    }
}

/// The Roles that were made for a right, and their bindings.
#[derive(Clone, Debug)]
pub struct Made {
    /// The Roles.
    pub roles: Store<Role>,
    /// The bindings.
    pub bindings: Store<RoleBinding>,
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn secrets_rule(named: &BTreeSet<String>) -> Option<PolicyRule> {
    (!named.is_empty()).then(|| PolicyRule {
        api_groups: Some(words(&[""])),
        resources: Some(words(&["secrets"])),
        resource_names: Some(named.iter().cloned().collect()),
        // A watch by name needs the last two.
        verbs: words(&["get", "list", "watch"]),
        ..PolicyRule::default()
    })
}

fn commands_rule() -> PolicyRule {
    PolicyRule {
        api_groups: Some(words(&[""])),
        resources: Some(words(&["pods/exec"])),
        // By WebSocket the first, by SPDY the second.
        verbs: words(&["get", "create"]),
        ..PolicyRule::default()
    }
}

fn restores_rule(workloads: &BTreeSet<String>) -> Option<PolicyRule> {
    (!workloads.is_empty()).then(|| PolicyRule {
        api_groups: Some(words(&["apps"])),
        resources: Some(words(&["daemonsets", "deployments", "statefulsets"])),
        resource_names: Some(workloads.iter().cloned().collect()),
        verbs: words(&["patch"]),
        ..PolicyRule::default()
    })
}

/// Returns the workload whose pods restore for `session` when they start: it is changed, and changed back when the session goes.
pub fn restored_at_start(session: &RestoreSession) -> Option<String> {
    let is_one = matches!(restore_session::at_start::decided(session), Way::AtStart(_));
    let reference = session.spec.target.as_ref().and_then(|target| target.reference.as_ref());
    reference.filter(|_| is_one).and_then(|reference| reference.name.clone())
}

/// Returns the workloads of a namespace that are restored when their pods start.
fn restored_in(namespace: &str, stores: &Stores) -> BTreeSet<String> {
    let within = |one: &RestoreSession| one.metadata.namespace.as_deref() == Some(namespace);
    stores.restores.state_filter(within).iter().filter_map(|session| restored_at_start(session)).collect()
}

/// Whether a hook of `configuration` is a command.
pub fn has_command(configuration: &BackupConfiguration) -> bool {
    configuration.spec.hooks.as_ref().is_some_and(|hooks| {
        is_command(hooks.pre_backup.as_ref()) || is_command(hooks.post_backup.as_ref().map(|post| &post.hook))
    })
}

/// Whether a hook of `session` is a command that may still be run.
pub fn will_run_command(session: &RestoreSession) -> bool {
    let is_one = session.spec.hooks.as_ref().is_some_and(|hooks| {
        is_command(hooks.pre_restore.as_ref()) || is_command(hooks.post_restore.as_ref().map(|post| &post.hook))
    });
    is_one && !restore_session::phase::is_over(session)
}

fn is_command(hook: Option<&Hook>) -> bool {
    hook.is_some_and(|hook| hook.exec.is_some())
}

fn are_commands_needed(namespace: &str, stores: &Stores) -> bool {
    let within = |of: Option<&str>| of == Some(namespace);
    let backup = |one: &BackupConfiguration| within(one.metadata.namespace.as_deref()) && has_command(one);
    let restore = |one: &RestoreSession| within(one.metadata.namespace.as_deref()) && will_run_command(one);
    !stores.configurations.state_filter(backup).is_empty() || !stores.restores.state_filter(restore).is_empty()
}

/// What the watch of namespaces sees of one.
pub type Space = PartialObjectMeta<Namespace>;

/// How often in a row the right was refused, by namespace. An entry only where it is.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<HashMap<String, u32>>);

impl Refusals {
    fn more(&self, namespace: &str) -> u32 {
        let mut all = self.0.lock();
        let count = all.entry(namespace.to_owned()).or_default();
        *count = count.saturating_add(1);
        *count
    }

    fn none(&self, namespace: &str) {
        self.0.lock().remove(namespace);
    }
}

/// What a plan is made from.
#[derive(Debug)]
pub struct Observed<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// Whether it is being deleted.
    pub dies: bool,
    /// Which right it is about.
    pub right: Right,
    /// What is needed of it there.
    pub needed: Option<&'a PolicyRule>,
    /// The controller's account.
    pub account: &'a Subject,
    /// The Role that is there.
    pub role: Option<&'a Role>,
    /// The binding that is there.
    pub binding: Option<&'a RoleBinding>,
}

/// What is done, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Whether the binding that is there is deleted: it is needed no more, or binds something else, which cannot be changed.
    pub unbind: bool,
    /// Whether the Role is deleted.
    pub drop_role: bool,
    /// The Role, where it has to be written.
    pub role: Option<Role>,
    /// The binding, where it has to be written.
    pub binding: Option<RoleBinding>,
}

/// Decides it. Pure.
pub fn plan(observed: &Observed<'_>) -> Plan {
    if observed.dies {
        // Nothing can be made there, and what is there goes with it.
        return Plan::default();
    }
    let Some(needed) = observed.needed else {
        return Plan { unbind: observed.binding.is_some(), drop_role: observed.role.is_some(), ..Plan::default() };
    };
    let metadata = metadata(observed);
    let role = Role { metadata: metadata.clone(), rules: Some(vec![needed.clone()]) };
    let role_ref =
        RoleRef { api_group: GROUP.to_owned(), kind: "Role".to_owned(), name: observed.right.role().to_owned() };
    let binding = RoleBinding { metadata, role_ref, subjects: Some(vec![observed.account.clone()]) };
    let binds_another = observed.binding.is_some_and(|found| found.role_ref != binding.role_ref);
    let is_bound = observed.binding.is_some_and(|found| !binds_another && found.subjects == binding.subjects);
    Plan {
        unbind: binds_another,
        drop_role: false,
        role: observed.role.is_none_or(|found| found.rules != role.rules).then_some(role),
        binding: (!is_bound).then_some(binding),
    }
}

fn metadata(observed: &Observed<'_>) -> ObjectMeta {
    let of = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let labels = [of(labels::MANAGED_BY_LABEL, labels::MANAGED_BY), of(COMPONENT_LABEL, observed.right.component())];
    ObjectMeta {
        name: Some(observed.right.role().to_owned()),
        namespace: Some(observed.namespace.to_owned()),
        labels: Some(labels.into()),
        ..ObjectMeta::default()
    }
}

/// Returns the Secrets of `namespace` that may be read, as far as has been seen.
pub fn granted(namespace: &str, stores: &Stores) -> BTreeSet<String> {
    let (made, name) = (stores.made(Right::Secrets), Right::Secrets.role());
    let bound = made.bindings.get(&as_ref_of(name, Some(namespace)));
    let role = bound.and_then(|_| made.roles.get(&as_ref_of(name, Some(namespace))));
    let rules = role.iter().filter_map(|role| role.rules.as_ref()).flatten();
    rules.filter_map(|rule| rule.resource_names.as_ref()).flatten().cloned().collect()
}

/// Asks the API server who we are.
///
/// # Errors
///
/// It did not tell.
pub async fn account(client: &Client) -> Result<Subject, ReconcileError> {
    let api = Api::<SelfSubjectReview>::all(client.clone());
    let review = api.create(&PostParams::default(), &SelfSubjectReview::default()).await;
    let review = review.map_err(|error| ReconcileError::of("ask which account this is", error))?;
    let user = review.status.and_then(|status| status.user_info).and_then(|user| user.username);
    Ok(subject(&user.unwrap_or_default()))
}

/// Returns a user as bindings name it.
fn subject(user: &str) -> Subject {
    match user.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':')) {
        Some((namespace, name)) => Subject {
            api_group: None,
            kind: "ServiceAccount".to_owned(),
            name: name.to_owned(),
            namespace: Some(namespace.to_owned()),
        },
        None => Subject {
            api_group: Some(GROUP.to_owned()),
            kind: "User".to_owned(),
            name: user.to_owned(),
            namespace: None,
        },
    }
}

/// Looks at a namespace: has what is needed there allowed, and nothing else.
///
/// # Errors
///
/// The API server did not do what it should.
pub async fn reconcile(space: Arc<Space>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let namespace = space.name_any();
    let (mut has_any, mut refused) = (false, None);
    for right in Right::ALL {
        let needed = right.needed(&namespace, &context.stores);
        let made = context.stores.made(right);
        let role = made.roles.get(&as_ref_of(right.role(), Some(&namespace)));
        let binding = made.bindings.get(&as_ref_of(right.role(), Some(&namespace)));
        let account = if needed.is_none() { Subject::default() } else { context.account().await? };
        has_any |= needed.is_some() || role.is_some();
        let plan = plan(&Observed {
            namespace: &namespace,
            dies: space.metadata.deletion_timestamp.is_some(),
            right,
            needed: needed.as_ref(),
            account: &account,
            role: role.as_deref(),
            binding: binding.as_deref(),
        });
        match apply(&namespace, right, &plan, &context).await {
            // The other one is given all the same.
            Err(error @ ReconcileError::Refused { .. }) => refused = Some(error),
            done => done?,
        }
    }
    let Some(error) = refused else {
        context.refusals.none(&namespace);
        return Ok(if has_any { Action::requeue(LOOK) } else { Action::await_change() });
    };
    let count = context.refusals.more(&namespace);
    if count == LOUD {
        let error = error.story();
        tracing::warn!(namespace, error, "a right that is needed there cannot be given; it is tried again");
    }
    Ok(Action::requeue(pause(count)))
}

/// Returns when to try again what was refused `count` times.
fn pause(count: u32) -> Duration {
    (PAUSES.0 * 2_u32.pow(count.clamp(1, 10) - 1)).min(PAUSES.1)
}

async fn apply(namespace: &str, right: Right, plan: &Plan, context: &Context) -> Result<(), ReconcileError> {
    if plan.unbind {
        delete(&context.api::<RoleBinding>(namespace), namespace, right).await?;
    }
    if plan.drop_role {
        delete(&context.api::<Role>(namespace), namespace, right).await?;
    }
    if let Some(role) = &plan.role {
        write(&context.api(namespace), role).await?;
    }
    if let Some(binding) = &plan.binding {
        write(&context.api(namespace), binding).await?;
    }
    Ok(())
}

/// Writes one of both, by a patch that makes what is not there: it has a name in its address, by which the right to it is given.
async fn write<K>(api: &Api<K>, object: &K) -> Result<(), ReconcileError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Serialize
        + std::fmt::Debug,
{
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let written = api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await;
    written.map(drop).map_err(|error| ReconcileError::of(format!("write {} {namespace}/{name}", K::kind(&())), error))
}

async fn delete<K>(api: &Api<K>, namespace: &str, right: Right) -> Result<(), ReconcileError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let name = right.role();
    match api.delete(name, &DeleteParams::default()).await {
        Err(error) if !is_not_found(&error) => {
            Err(ReconcileError::of(format!("delete {} {namespace}/{name}", K::kind(&())), error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn account() -> Subject {
        subject("system:serviceaccount:backups:stash-fs-controller")
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn observed<'a>(right: Right, needed: Option<&'a PolicyRule>, account: &'a Subject) -> Observed<'a> {
        Observed { namespace: "shop", dies: false, right, needed, account, role: None, binding: None }
    }

    /// What there is after a plan for `right` was done.
    fn made(right: Right, needed: &PolicyRule) -> (Role, RoleBinding) {
        let plan = plan(&observed(right, Some(needed), &account()));
        (plan.role.unwrap(), plan.binding.unwrap())
    }

    fn made_for(named: &[&str]) -> (Role, RoleBinding) {
        made(Right::Secrets, &secrets_rule(&names(named)).unwrap())
    }

    #[test]
    fn test_what_is_done() {
        let (one, binding) = made_for(&["a"]);
        let (two, _) = made_for(&["a", "b"]);
        let strange = RoleBinding { subjects: Some(vec![subject("somebody")]), ..binding.clone() };
        let wider = Role { rules: two.rules.clone().map(|rules| [rules.clone(), rules].concat()), ..two.clone() };
        let another = RoleBinding {
            role_ref: RoleRef { name: "other".to_owned(), ..binding.role_ref.clone() },
            ..binding.clone()
        };
        let nothing = "";
        for (what, named, role, bound, dies, expected) in [
            ("the first Repository", &["a"][..], None, None, false, "role binding"),
            ("nothing changed", &["a"], Some(&one), Some(&binding), false, nothing),
            ("stopped between both", &["a"], Some(&one), None, false, "binding"),
            ("another Secret", &["a", "b"], Some(&one), Some(&binding), false, "role"),
            ("one less", &["a"], Some(&two), Some(&binding), false, "role"),
            ("somebody made it wider", &["a", "b"], Some(&wider), Some(&binding), false, "role"),
            ("somebody bound another account", &["a"], Some(&one), Some(&strange), false, "binding"),
            ("somebody bound another Role", &["a"], Some(&one), Some(&another), false, "unbind binding"),
            ("the last goes", &[], Some(&one), Some(&binding), false, "unbind drop"),
            ("stopped between both ends", &[], Some(&one), None, false, "drop"),
            ("none was there", &[], None, None, false, nothing),
            ("the namespace goes", &["a"], None, None, true, nothing),
            ("the namespace goes, with both", &[], Some(&one), Some(&binding), true, nothing),
        ] {
            let (needed, account) = (secrets_rule(&names(named)), account());
            let plan =
                plan(&Observed { dies, role, binding: bound, ..observed(Right::Secrets, needed.as_ref(), &account) });
            let done = [
                (plan.unbind, "unbind"),
                (plan.drop_role, "drop"),
                (plan.role.is_some(), "role"),
                (plan.binding.is_some(), "binding"),
            ];
            let done: Vec<&str> = done.into_iter().filter_map(|(done, word)| done.then_some(word)).collect();
            assert_eq!(done.join(" "), expected, "{what}");
        }
    }

    #[test]
    fn test_the_right_is_no_wider_than_the_names() {
        let labelled =
            |component: &str| json!({labels::MANAGED_BY_LABEL: labels::MANAGED_BY, COMPONENT_LABEL: component});
        let (role, binding) = made_for(&["b", "a"]);
        assert_eq!(
            serde_json::to_value(&role).unwrap(),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
                "metadata": {"name": "stash-fs-repositories", "namespace": "shop", "labels": labelled("repositories")},
                "rules": [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"], "verbs": ["get", "list", "watch"]}]
            })
        );
        assert_eq!(
            serde_json::to_value(&binding).unwrap(),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": {"name": "stash-fs-repositories", "namespace": "shop", "labels": labelled("repositories")},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "stash-fs-repositories"},
                "subjects": [{"kind": "ServiceAccount", "name": "stash-fs-controller", "namespace": "backups"}]
            })
        );
        let (role, binding) = made(Right::Commands, &commands_rule());
        let metadata = json!({"name": "stash-fs-hooks", "namespace": "shop", "labels": labelled("hooks")});
        let seen = |value: &Value, field: &str| value[field].clone();
        let (role, binding) = (serde_json::to_value(&role).unwrap(), serde_json::to_value(&binding).unwrap());
        assert_eq!((seen(&role, "metadata"), seen(&binding, "metadata")), (metadata.clone(), metadata));
        let rule = json!({"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]});
        assert_eq!((seen(&role, "rules"), seen(&binding["roleRef"], "name")), (json!([rule]), json!("stash-fs-hooks")));
        let person = serde_json::to_value(subject("jane")).unwrap();
        assert_eq!(person, json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}));
    }

    #[test]
    fn test_who_needs_commands() {
        let command = json!({"exec": {"command": ["sync"]}});
        let request = json!({"tcpSocket": {"port": 80}});
        for (hooks, expected) in [
            (json!(null), false),
            (json!({"pre": request, "post": request}), false),
            (json!({"pre": command}), true),
            (json!({"pre": request, "post": command}), true),
        ] {
            let of = |kind: &str| {
                let hooks = hooks.as_object().map(|hooks| {
                    hooks
                        .iter()
                        .map(|(point, hook)| (format!("{point}{kind}"), hook.clone()))
                        .collect::<serde_json::Map<_, _>>()
                });
                json!({"metadata": {"name": "x", "namespace": "shop"}, "spec": {"hooks": hooks}})
            };
            let configuration: BackupConfiguration = serde_json::from_value(of("Backup")).unwrap();
            assert_eq!(has_command(&configuration), expected, "{hooks}");
            let mut session: RestoreSession = serde_json::from_value(of("Restore")).unwrap();
            assert_eq!(will_run_command(&session), expected, "{hooks}");
            session.status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
            assert!(!will_run_command(&session), "{hooks}");
        }
    }

    #[test]
    fn test_refusals_are_tried_again_with_growing_pauses() {
        let refusals = Refusals::default();
        let pauses: Vec<u128> = (0..10).map(|_| pause(refusals.more("shop")).as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        refusals.none("shop");
        assert_eq!((refusals.more("shop"), pause(u32::MAX)), (1, PAUSES.1));
    }
}
