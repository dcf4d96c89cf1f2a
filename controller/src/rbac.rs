//! What the controller may do at the API server: a table, from which the chart's roles and the table in `docs/security.md` are made.
//!
//! A row is a call: who adds a call adds its row, runs `make rbac`, and commits what that wrote. All suites run the controller with these
//! rights alone, so that a row that is missing is an error there.

use std::fmt::Write as _;

use crate::rights::Right;

/// Where a right holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// In all namespaces, and for what is in none.
    Cluster,
    /// The same, where the chart's admission policies bound what is done with it.
    Bounded,
    /// The same, in place of that where there are no such policies.
    Unbounded,
    /// In the controller's own namespace.
    Release,
}

/// A right, and the calls that need it.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    /// Where it holds.
    pub scope: Scope,
    /// The API group, empty for Kubernetes' first one.
    pub group: &'static str,
    /// The resources, as `pods` or `jobs/status`.
    pub resources: &'static [&'static str],
    /// The only objects it is for; all, if there are none.
    pub names: &'static [&'static str],
    /// What may be done.
    pub verbs: &'static [&'static str],
    /// Which calls need it.
    pub why: &'static str,
}

impl Grant {
    const fn only(self, names: &'static [&'static str]) -> Self {
        Self { names, ..self }
    }
}

const fn in_cluster(
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    why: &'static str,
) -> Grant {
    Grant { scope: Scope::Cluster, group, resources, names: &[], verbs, why }
}

const fn if_bounded(
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    why: &'static str,
) -> Grant {
    Grant { scope: Scope::Bounded, group, resources, names: &[], verbs, why }
}

const fn if_unbounded(
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    why: &'static str,
) -> Grant {
    Grant { scope: Scope::Unbounded, group, resources, names: &[], verbs, why }
}

const fn in_release(
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    why: &'static str,
) -> Grant {
    Grant { scope: Scope::Release, group, resources, names: &[], verbs, why }
}

/// The group of roles.
const RBAC: &str = "rbac.authorization.k8s.io";
/// The names of the Roles that are made, and of their bindings. They are made by a patch, which names them as a watch by name does.
const ROLES: &[&str] = &[Right::Commands.role(), Right::Secrets.role(), Right::Restores.role()];
/// The group of Stash's kinds.
const STASH: &str = "stash.appscode.com";
/// What Stash's operator registers at the API server.
const STASH_API_SERVICES: &[&str] = &[
    "v1alpha1.admission.stash.appscode.com",
    "v1alpha1.repositories.stash.appscode.com",
    "v1beta1.admission.stash.appscode.com",
];

/// All that the controller may do.
pub const GRANTS: &[Grant] = &[
    in_cluster(
        STASH,
        &["backupconfigurations", "repositories", "restoresessions"],
        &["get", "list", "patch", "watch"],
        "watches; Stash's finalizer is taken off, and set on a Repository with wipeOut; a RestoreSession holds the nodes of a DaemonSet as an annotation; whether a Repository lives is asked before a snapshot is forgotten",
    ),
    in_cluster(
        STASH,
        &["backupsessions"],
        &["create", "delete", "get", "list", "patch", "watch"],
        "watches; sessions are made when they are due, deleted by backupHistoryLimit, and hold the nodes of a DaemonSet as an annotation",
    ),
    in_cluster(
        STASH,
        &["backupconfigurations/status", "backupsessions/status", "repositories/status", "restoresessions/status"],
        &["patch"],
        "statuses are written",
    ),
    in_cluster(
        STASH,
        &[
            "backupconfigurations/finalizers",
            "backupsessions/finalizers",
            "repositories/finalizers",
            "restoresessions/finalizers",
        ],
        &["update"],
        "what is made names them as owners that wait for it, which OpenShift allows only with this",
    ),
    in_cluster(
        "repositories.stash.appscode.com",
        &["snapshots"],
        &["create", "delete", "get", "list", "patch", "watch"],
        "the snapshots of repositories are mirrored as objects; the watch asks for metadata only",
    ),
    in_cluster(
        "apiextensions.k8s.io",
        &["customresourcedefinitions"],
        &["get"],
        "whether the definitions of Snapshot and Repository live is asked before a snapshot is forgotten, or a repository removed",
    )
    .only(&["repositories.stash.appscode.com", "snapshots.repositories.stash.appscode.com"]),
    in_cluster(
        "snapshot.storage.k8s.io",
        &["volumesnapshots"],
        &["create", "delete", "get", "list"],
        "driver VolumeSnapshotter: they are made, waited for, and deleted by policy",
    ),
    in_cluster(
        "batch",
        &["jobs"],
        &["create", "delete", "get", "list", "watch"],
        "Jobs do the work; they are deleted at a deadline, when the pod beside them leaves, and when their session is gone",
    ),
    in_cluster(
        "batch",
        &["jobs/finalizers"],
        &["update"],
        "a Job's Secret names the Job as an owner that waits for it, which OpenShift allows only with this",
    ),
    in_cluster(
        "networking.k8s.io",
        &["networkpolicies"],
        &["create"],
        "the pod that serves a repository which is a volume may be called by the controller's namespace alone; it goes with its Job",
    ),
    in_cluster(
        "",
        &["secrets"],
        &["create"],
        "a Job gets a Secret of its own, which is not read again",
    ),
    in_cluster(
        RBAC,
        &["roles"],
        &["bind", "create", "delete", "list", "patch", "watch"],
        "in each namespace with Repositories one Role allows to get, list and watch the Secrets that they name, in each with hooks that are commands another one to run them, in each with workloads that are restored when their pods start a third to change these",
    )
    .only(ROLES),
    in_cluster(
        RBAC,
        &["rolebindings"],
        &["create", "delete", "list", "patch", "watch"],
        "those Roles are bound to the controller's account",
    )
    .only(ROLES),
    if_bounded(
        RBAC,
        &["roles"],
        &["escalate"],
        "those Roles allow what the account may not do otherwise; the policies see to it that they allow nothing else",
    )
    .only(ROLES),
    if_unbounded(
        "",
        &["secrets"],
        &["get", "list", "watch"],
        "an account that may not escalate gives no more than it has; it still reads the Secrets of Repositories alone",
    ),
    if_unbounded(
        "",
        &["pods/exec"],
        &["create", "get"],
        "the same of hooks that are commands, in pods of their configuration's own target",
    ),
    in_cluster(
        "",
        &["pods"],
        &["get", "list", "watch"],
        "the pods of a target are looked up, and those of Jobs watched: how they ended is the report",
    ),
    in_cluster(
        "",
        &["persistentvolumeclaims"],
        &["create", "get", "list", "watch"],
        "whether a target exists, and who may mount it; the watch asks for metadata only; claims of volumeClaimTemplates are made",
    ),
    in_cluster("", &["persistentvolumes"], &["get"], "the folder of a node in which a claim is mounted"),
    in_cluster(
        "",
        &["namespaces"],
        &["get", "list", "watch"],
        "usagePolicy selects namespaces by label; whether one lives is asked before a snapshot is forgotten or a repository removed",
    ),
    in_cluster("", &["replicationcontrollers"], &["get"], "a target's pods and volumes"),
    in_cluster(
        "apps",
        &["daemonsets", "deployments", "statefulsets"],
        &["get", "list", "watch"],
        "a target's pods and volumes; the watch asks for metadata only",
    ),
    in_cluster("apps", &["replicasets"], &["get"], "a target's pods and volumes"),
    in_cluster(
        "storage.k8s.io",
        &["storageclasses"],
        &["get"],
        "restores of VolumeSnapshots: whether a claim is bound only when a pod uses it",
    ),
    in_cluster(
        "events.k8s.io",
        &["events"],
        &["create", "list", "patch"],
        "what happened is told as events of the object; those of a claim that is not bound say why a restore waits",
    ),
    in_cluster(
        "apiregistration.k8s.io",
        &["apiservices"],
        &["get"],
        "while Stash's own operator is installed, nothing is done",
    )
    .only(STASH_API_SERVICES),
    in_release("coordination.k8s.io", &["leases"], &["create", "get", "update"], "one of several controllers acts"),
];

/// What is generated, and the file below the repository that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generated {
    /// The rules of the chart's ClusterRole.
    ClusterRules,
    /// Those that it has where there are the chart's policies.
    BoundedRules,
    /// Those that it has where there are none.
    UnboundedRules,
    /// The rules of the chart's Role.
    ReleaseRules,
    /// The table of the document about security, between two marks.
    Table,
}

/// Where the table begins in its document.
const TABLE_BEGIN: &str = "<!-- generated from controller/src/rbac.rs: make rbac -->\n";
/// Where it ends.
const TABLE_END: &str = "<!-- end -->\n";

impl Generated {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::ClusterRules, Self::BoundedRules, Self::UnboundedRules, Self::ReleaseRules, Self::Table];

    /// Returns the file, below the root of the repository.
    pub fn path(self) -> &'static str {
        match self {
            Self::ClusterRules => "deploy/charts/stash-fs/files/rbac/cluster.yaml",
            Self::BoundedRules => "deploy/charts/stash-fs/files/rbac/bounded.yaml",
            Self::UnboundedRules => "deploy/charts/stash-fs/files/rbac/unbounded.yaml",
            Self::ReleaseRules => "deploy/charts/stash-fs/files/rbac/release.yaml",
            Self::Table => "docs/security.md",
        }
    }

    /// Returns what the file has to hold, where it holds `now`; none if a table has no place in it.
    pub fn content(self, now: &str) -> Option<String> {
        match self {
            Self::ClusterRules => Some(rules(Scope::Cluster)),
            Self::BoundedRules => Some(rules(Scope::Bounded)),
            Self::UnboundedRules => Some(rules(Scope::Unbounded)),
            Self::ReleaseRules => Some(rules(Scope::Release)),
            Self::Table => {
                let (before, rest) = now.split_once(TABLE_BEGIN)?;
                let (_, after) = rest.split_once(TABLE_END)?;
                Some(format!("{before}{TABLE_BEGIN}{}{TABLE_END}{after}", table()))
            }
        }
    }
}

/// Returns the rules of a role as YAML, each with its reason.
fn rules(scope: Scope) -> String {
    let mut text = String::from("# Generated from controller/src/rbac.rs: make rbac\n");
    let list = |words: &[&str]| {
        let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
        format!("[{}]", quoted.join(", "))
    };
    for grant in GRANTS.iter().filter(|grant| grant.scope == scope) {
        // Writing to a String cannot fail.
        let _infallible = writeln!(
            text,
            "# {}\n- apiGroups: {}\n  resources: {}",
            grant.why,
            list(&[grant.group]),
            list(grant.resources)
        );
        if !grant.names.is_empty() {
            let _infallible = writeln!(text, "  resourceNames: {}", list(grant.names));
        }
        let _infallible = writeln!(text, "  verbs: {}", list(grant.verbs));
    }
    text
}

/// Returns all rights as a table in Markdown.
fn table() -> String {
    let mut text = String::from("| where | group | resources | verbs | for what |\n| --- | --- | --- | --- | --- |\n");
    let code = |words: &[&str]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    for grant in GRANTS {
        let place = match grant.scope {
            Scope::Cluster => "cluster",
            Scope::Bounded => "cluster, with the policies",
            Scope::Unbounded => "cluster, without them",
            Scope::Release => "own namespace",
        };
        let group = if grant.group.is_empty() { "core".to_owned() } else { code(&[grant.group]) };
        let only = if grant.names.is_empty() { String::new() } else { format!(", only {}", code(grant.names)) };
        let _infallible = writeln!(
            text,
            "| {place} | {group} | {}{only} | {} | {} |",
            code(grant.resources),
            grant.verbs.join(", "),
            grant.why
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn test_what_is_generated_is_what_is_committed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for generated in Generated::ALL {
            let path = generated.path();
            let committed = std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
            let wanted = generated.content(&committed).unwrap_or_else(|| panic!("{path} has no place for the table"));
            assert!(committed == wanted, "{path} is stale: make rbac");
        }
    }

    #[test]
    fn test_no_right_is_wider_than_its_call() {
        const VERBS: [&str; 9] = ["bind", "create", "delete", "escalate", "get", "list", "patch", "update", "watch"];
        for grant in GRANTS {
            let words = [&[grant.group], grant.resources, grant.names, grant.verbs].concat();
            assert!(words.iter().all(|word| !word.contains('*')), "a wildcard: {grant:?}");
            assert!(grant.verbs.iter().all(|verb| VERBS.contains(verb)), "{grant:?}");
            // A name is not asked for of what is posted. What a patch makes has one, and a list may ask for one.
            let is_patched = !grant.verbs.contains(&"create") || grant.verbs.contains(&"patch");
            assert!(grant.names.is_empty() || is_patched, "{grant:?}");
            let is_of_roles = ["bind", "escalate"].iter().any(|verb| grant.verbs.contains(verb)) || grant.group == RBAC;
            assert!(!is_of_roles || grant.names == ROLES, "{grant:?}");
            assert!(!grant.why.is_empty() && !grant.why.contains(['\n', '|']), "{grant:?}");
            for words in [grant.resources, grant.verbs, grant.names] {
                assert!(words.is_sorted(), "in order, so that they are easily compared: {grant:?}");
            }
        }
    }

    #[test]
    fn test_secrets_are_never_changed_nor_deleted() {
        for (scope, expected) in [
            (Scope::Cluster, &["create"][..]),
            (Scope::Release, &[]),
            (Scope::Bounded, &[]),
            (Scope::Unbounded, &["get", "list", "watch"]),
        ] {
            let of_secrets = |grant: &&Grant| grant.group.is_empty() && grant.resources.contains(&"secrets");
            let rows = GRANTS.iter().filter(|grant| grant.scope == scope).filter(of_secrets);
            let verbs: BTreeSet<&str> = rows.flat_map(|grant| grant.verbs.iter().copied()).collect();
            assert_eq!(verbs, expected.iter().copied().collect(), "{scope:?}");
        }
    }

    #[test]
    fn test_commands_are_run_by_no_right_of_the_cluster() {
        let of_commands = GRANTS.iter().filter(|grant| grant.resources.contains(&"pods/exec"));
        assert!(of_commands.map(|grant| grant.scope).eq([Scope::Unbounded]));
    }

    #[test]
    fn test_workloads_are_changed_by_no_right_of_the_cluster() {
        let of_workloads = GRANTS.iter().filter(|grant| grant.group == "apps");
        assert!(of_workloads.flat_map(|grant| grant.verbs).all(|verb| ["get", "list", "watch"].contains(verb)));
    }

    #[test]
    fn test_roles_are_those_of_namespaces_alone() {
        let of_roles = GRANTS.iter().filter(|grant| grant.group == RBAC);
        assert!(
            of_roles
                .clone()
                .all(|grant| grant.names == ["stash-fs-hooks", "stash-fs-repositories", "stash-fs-restores"])
        );
        let resources: BTreeSet<&str> = of_roles.flat_map(|grant| grant.resources.iter().copied()).collect();
        assert_eq!(resources, ["rolebindings", "roles"].into());
    }

    #[test]
    fn test_a_right_stands_in_one_row() {
        let mut seen = BTreeSet::new();
        for grant in GRANTS {
            for resource in grant.resources {
                for verb in grant.verbs {
                    assert!(seen.insert((grant.scope, grant.group, resource, verb)), "{grant:?}: {resource} {verb}");
                }
            }
        }
    }

    #[test]
    fn test_the_table_stays_between_its_marks() {
        let text = format!("before\n{TABLE_BEGIN}old\n{TABLE_END}after\n");
        let made = Generated::Table.content(&text).unwrap();
        assert!(made.starts_with("before\n") && made.ends_with("after\n") && !made.contains("\nold\n"));
        assert_eq!(Generated::Table.content(&made), Some(made));
        assert_eq!(Generated::Table.content("nothing"), None);
    }
}
