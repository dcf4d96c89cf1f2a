//! The right to read the Secrets that the Repositories of a namespace name, and no others: a Role and its binding, of a fixed name.

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
use kube::{Client, Resource, ResourceExt as _};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stash_crds::names as labels;

use crate::context::{Context, MANAGER};
use crate::errors::{ReconcileError, is_not_found};
use crate::stores::{Stores, as_ref_of};

/// The name of the Role and of its binding, in each namespace with Repositories. The chart's policies know it too.
pub const ROLE: &str = "stash-fs-repositories";

/// The API group of both.
const GROUP: &str = "rbac.authorization.k8s.io";
/// The first and the longest pause after a try that was refused: the policy that judges it sees a Repository a moment after us.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// How often a namespace is looked at that has the right: a Repository may have gone while nobody watched.
const LOOK: Duration = Duration::from_mins(10);
/// After how many refusals in a row somebody is told.
const LOUD: u32 = 5;

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
    /// The Secrets that its Repositories name.
    pub named: &'a BTreeSet<String>,
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
    if observed.named.is_empty() {
        return Plan { unbind: observed.binding.is_some(), drop_role: observed.role.is_some(), ..Plan::default() };
    }
    let (role, binding) = (role(observed), binding(observed));
    let binds_another = observed.binding.is_some_and(|found| found.role_ref != binding.role_ref);
    let is_bound = observed.binding.is_some_and(|found| !binds_another && found.subjects == binding.subjects);
    Plan {
        unbind: binds_another,
        drop_role: false,
        role: observed.role.is_none_or(|found| found.rules != role.rules).then_some(role),
        binding: (!is_bound).then_some(binding),
    }
}

fn metadata(namespace: &str) -> ObjectMeta {
    let managed = [(labels::MANAGED_BY_LABEL.to_owned(), labels::MANAGED_BY.to_owned())];
    ObjectMeta {
        name: Some(ROLE.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some(managed.into()),
        ..ObjectMeta::default()
    }
}

fn role(observed: &Observed<'_>) -> Role {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let rule = PolicyRule {
        api_groups: Some(words(&[""])),
        resources: Some(words(&["secrets"])),
        resource_names: Some(observed.named.iter().cloned().collect()),
        // A watch by name needs the last two.
        verbs: words(&["get", "list", "watch"]),
        ..PolicyRule::default()
    };
    Role { metadata: metadata(observed.namespace), rules: Some(vec![rule]) }
}

fn binding(observed: &Observed<'_>) -> RoleBinding {
    RoleBinding {
        metadata: metadata(observed.namespace),
        role_ref: RoleRef { api_group: GROUP.to_owned(), kind: "Role".to_owned(), name: ROLE.to_owned() },
        subjects: Some(vec![observed.account.clone()]),
    }
}

/// Returns the Secrets of `namespace` that may be read, as far as has been seen.
pub fn granted(namespace: &str, stores: &Stores) -> BTreeSet<String> {
    let within = Some(namespace);
    let bound = stores.role_bindings.get(&as_ref_of(ROLE, within));
    let role = bound.and_then(|_| stores.roles.get(&as_ref_of(ROLE, within)));
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

/// Looks at a namespace: has the Secrets that its Repositories name readable, and no others.
///
/// # Errors
///
/// The API server did not do what it should.
pub async fn reconcile(space: Arc<Space>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let (namespace, stores) = (space.name_any(), &context.stores);
    let named = stores.secrets_named_in(&namespace);
    let account = if named.is_empty() { Subject::default() } else { context.account().await? };
    let (role, binding) = (
        stores.roles.get(&as_ref_of(ROLE, Some(&namespace))),
        stores.role_bindings.get(&as_ref_of(ROLE, Some(&namespace))),
    );
    let plan = plan(&Observed {
        namespace: &namespace,
        dies: space.metadata.deletion_timestamp.is_some(),
        named: &named,
        account: &account,
        role: role.as_deref(),
        binding: binding.as_deref(),
    });
    match apply(&namespace, &plan, &context).await {
        Ok(()) => {
            context.refusals.none(&namespace);
            Ok(if named.is_empty() && role.is_none() { Action::await_change() } else { Action::requeue(LOOK) })
        }
        Err(error @ ReconcileError::Refused { .. }) => {
            let count = context.refusals.more(&namespace);
            if count == LOUD {
                let error = error.story();
                tracing::warn!(
                    namespace,
                    error,
                    "the right to read the Secrets of Repositories cannot be given; it is tried again"
                );
            }
            Ok(Action::requeue(pause(count)))
        }
        Err(error) => Err(error),
    }
}

/// Returns when to try again what was refused `count` times.
fn pause(count: u32) -> Duration {
    (PAUSES.0 * 2_u32.pow(count.clamp(1, 10) - 1)).min(PAUSES.1)
}

async fn apply(namespace: &str, plan: &Plan, context: &Context) -> Result<(), ReconcileError> {
    if plan.unbind {
        delete::<RoleBinding>(namespace, context).await?;
    }
    if plan.drop_role {
        delete::<Role>(namespace, context).await?;
    }
    if let Some(role) = &plan.role {
        write(namespace, role, context).await?;
    }
    if let Some(binding) = &plan.binding {
        write(namespace, binding, context).await?;
    }
    Ok(())
}

/// Writes one of both, by a patch that makes what is not there: it has a name in its address, by which the right to it is given.
async fn write<K>(namespace: &str, object: &K, context: &Context) -> Result<(), ReconcileError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Serialize
        + std::fmt::Debug,
{
    let parameters = PatchParams::apply(MANAGER).force();
    let written = context.api::<K>(namespace).patch(ROLE, &parameters, &Patch::Apply(object)).await;
    written.map(drop).map_err(|error| ReconcileError::of(format!("write {} {namespace}/{ROLE}", K::kind(&())), error))
}

async fn delete<K>(namespace: &str, context: &Context) -> Result<(), ReconcileError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
    match context.api::<K>(namespace).delete(ROLE, &DeleteParams::default()).await {
        Err(error) if !is_not_found(&error) => {
            Err(ReconcileError::of(format!("delete {} {namespace}/{ROLE}", K::kind(&())), error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Subject {
        subject("system:serviceaccount:backups:stash-fs-controller")
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn observed<'a>(named: &'a BTreeSet<String>, account: &'a Subject) -> Observed<'a> {
        Observed { namespace: "shop", dies: false, named, account, role: None, binding: None }
    }

    /// What there is after a plan for `named` was done.
    fn made(named: &[&str]) -> (Role, RoleBinding) {
        let plan = plan(&observed(&names(named), &account()));
        (plan.role.unwrap(), plan.binding.unwrap())
    }

    #[test]
    fn test_what_is_done() {
        let (one, binding) = made(&["a"]);
        let (two, _) = made(&["a", "b"]);
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
            let (named, account) = (names(named), account());
            let plan = plan(&Observed { dies, role, binding: bound, ..observed(&named, &account) });
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
        let (role, binding) = made(&["b", "a"]);
        assert_eq!(
            serde_json::to_value(&role).unwrap(),
            serde_json::json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
                "metadata": {"name": ROLE, "namespace": "shop", "labels": {labels::MANAGED_BY_LABEL: labels::MANAGED_BY}},
                "rules": [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"], "verbs": ["get", "list", "watch"]}]
            })
        );
        assert_eq!(
            serde_json::to_value(&binding).unwrap(),
            serde_json::json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": {"name": ROLE, "namespace": "shop", "labels": {labels::MANAGED_BY_LABEL: labels::MANAGED_BY}},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ROLE},
                "subjects": [{"kind": "ServiceAccount", "name": "stash-fs-controller", "namespace": "backups"}]
            })
        );
        let person = serde_json::to_value(subject("jane")).unwrap();
        assert_eq!(
            person,
            serde_json::json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"})
        );
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
