//! Who may have which volume. Pure: what is needed of the API was looked up before.
//!
//! Anyone who may create a pod may write any attribute, so a publish is judged by what the API server says of the pod, not by what the
//! request says: the pod exists, with the uid of the folder that kubelet wants the volume in, on this node. From there come its namespace
//! and its account. Then the Repository's `usagePolicy` must admit the namespace; and where the Repository is in another namespace, the
//! account itself must be allowed the verb `mount` on the Snapshot, because one Repository may hold several tenants' hosts.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use stash_crds::Repository;
use stash_crds::usage_policy::may_use;

use crate::names::DRIVER;
use crate::target::PodVolume;
use crate::volume::{Ownership, PodInfo};

/// Why somebody may not. The text becomes an event of the pod: it names the object and the rule, and tells of a Repository elsewhere
/// nothing but that it does not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The pod of the request is not one that kubelet of this node could mean.
    #[error("the pod {namespace}/{name} is not the one that this volume is for: {reason}")]
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What does not fit.
        reason: &'static str,
    },
    /// There is no such Repository, or it does not admit the namespace. Across namespaces both are the same to a stranger.
    #[error(
        "the Repository {repository} does not exist, or its usagePolicy does not admit the namespace {namespace} (spec.usagePolicy.allowedNamespaces)"
    )]
    Policy {
        /// The Repository, with its namespace.
        repository: String,
        /// The namespace that is not admitted.
        namespace: String,
    },
    /// The account may not mount.
    #[error(
        "{account} may not mount snapshots of the Repository {repository}: it needs the verb mount on snapshots.repositories.stash.appscode.com in the namespace {namespace}"
    )]
    Account {
        /// The account.
        account: Account,
        /// The Repository, with its namespace.
        repository: String,
        /// The namespace in which the right is needed.
        namespace: String,
    },
    /// Files would belong to somebody who is not the pod.
    #[error("the attribute {attribute} is {asked}, which is not the pod's own: {field} {own}")]
    Owner {
        /// `uid` or `gid`.
        attribute: &'static str,
        /// What was asked for.
        asked: u32,
        /// Where a pod says it.
        field: &'static str,
        /// What the pod says.
        own: String,
    },
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Account {
    /// Returns its name as a user.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }

    /// Returns the groups that the API server sees it in.
    pub fn groups(&self) -> Vec<String> {
        vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{}", self.namespace),
            "system:authenticated".to_owned(),
        ]
    }
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the service account {}/{}", self.namespace, self.name)
    }
}

/// Returns the account of the pod that a volume is for.
///
/// `claimed` is what the request says, `found` what the API server has under that name, `place` the folder in which kubelet wants the
/// volume, `node` this node.
///
/// # Errors
///
/// They do not fit together.
pub fn account(
    claimed: &PodInfo,
    found: Option<&Pod>,
    place: Option<&PodVolume<'_>>,
    node: &str,
) -> Result<Account, Refused> {
    let refuse = |reason: &'static str| Refused::Pod {
        namespace: claimed.namespace.clone(),
        name: claimed.name.clone(),
        reason,
    };
    let place = place.ok_or_else(|| refuse("the target is no volume of a pod in kubelet's directory"))?;
    if place.uid != claimed.uid {
        return Err(refuse("its uid is not that of the target's folder"));
    }
    let pod = found.ok_or_else(|| refuse("there is none"))?;
    if pod.metadata.uid.as_deref() != Some(claimed.uid.as_str()) {
        return Err(refuse("there is another one with this name"));
    }
    let spec = pod.spec.as_ref().ok_or_else(|| refuse("it has no spec"))?;
    if spec.node_name.as_deref() != Some(node) {
        return Err(refuse("it is not on this node"));
    }
    let account = spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    if account != claimed.service_account {
        return Err(refuse("it has another service account"));
    }
    let ours = |volume: &k8s_openapi::api::core::v1::Volume| {
        volume.name == place.volume && volume.csi.as_ref().is_some_and(|csi| csi.driver == DRIVER)
    };
    if claimed.ephemeral && !spec.volumes.iter().flatten().any(ours) {
        return Err(refuse("it has no such volume of this driver"));
    }
    Ok(Account { namespace: claimed.namespace.clone(), name: account.to_owned() })
}

/// Whether a namespace with these labels may use a Repository. `labels` of a namespace that is not there are none.
///
/// # Errors
///
/// It may not, or there is no such Repository.
pub fn policy<'a>(
    repository: Option<&'a Repository>,
    repository_namespace: &str,
    repository_name: &str,
    namespace: &str,
    labels: Option<&BTreeMap<String, String>>,
) -> Result<&'a Repository, Refused> {
    let refused = || Refused::Policy {
        repository: format!("{repository_namespace}/{repository_name}"),
        namespace: namespace.to_owned(),
    };
    // Of a namespace that is gone nobody knows the labels: a selector might match none of them.
    let labels = labels.ok_or_else(refused)?;
    repository.filter(|repository| may_use(repository, namespace, labels)).ok_or_else(refused)
}

/// Whether files may be shown as these owners': only as the pod's own user and group, so that nobody gets files that look like those of
/// somebody else.
///
/// # Errors
///
/// They may not.
pub fn ownership(pod: &Pod, asked: Ownership) -> Result<(), Refused> {
    let spec = pod.spec.clone().unwrap_or_default();
    let security = spec.security_context.clone().unwrap_or_default();
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let of_containers = containers.filter_map(|container| container.security_context.as_ref()?.run_as_user);
    let users: Vec<i64> = security.run_as_user.into_iter().chain(of_containers).collect();
    let groups: Vec<i64> = security.fs_group.into_iter().collect();
    let shown = |own: &[i64]| {
        if own.is_empty() {
            return "is not set".to_owned();
        }
        format!("is {}", own.iter().map(i64::to_string).collect::<Vec<_>>().join(", "))
    };
    for (attribute, asked, field, own) in
        [("uid", asked.uid, "runAsUser", users), ("gid", asked.gid, "securityContext.fsGroup", groups)]
    {
        if let Some(asked) = asked.filter(|asked| !own.contains(&i64::from(*asked))) {
            return Err(Refused::Owner { attribute, asked, field, own: shown(&own) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
