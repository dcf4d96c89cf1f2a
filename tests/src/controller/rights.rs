//! The rights that the chart gives the controller: it is tested with these and no others.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cluster::{Kubectl, wait_until};

/// The account that the controller of a test has.
const ACCOUNT: &str = "stash-controller";

/// Makes an account in `namespace` with the rights of the chart's roles; returns a kubeconfig of it beside `kubeconfig`, which may do all.
pub(super) fn restricted(kubeconfig: &Path, namespace: &str) -> PathBuf {
    let kubectl = Kubectl::new(kubeconfig.to_owned());
    for object in objects(namespace) {
        kubectl.apply(&object);
    }
    let user = format!("--as=system:serviceaccount:{namespace}:{ACCOUNT}");
    wait_until("the account's rights", || {
        let mine = kubectl.try_run(&["auth", "can-i", "create", "leases", "-n", namespace, &user], "").is_ok();
        (mine && kubectl.try_run(&["auth", "can-i", "list", "jobs", "-A", &user], "").is_ok()).then_some(())
    });
    kubeconfig_of(&kubectl, namespace, ACCOUNT)
}

/// Where [`restricted`] has left its kubeconfig.
pub(super) fn restricted_path(kubeconfig: &Path, namespace: &str) -> PathBuf {
    path_of(kubeconfig, namespace, ACCOUNT)
}

fn path_of(kubeconfig: &Path, namespace: &str, account: &str) -> PathBuf {
    kubeconfig.with_file_name(format!("{account}-of-{namespace}.conf"))
}

/// Writes a kubeconfig of an account beside that of `kubectl`, which may do all.
pub fn kubeconfig_of(kubectl: &Kubectl, namespace: &str, account: &str) -> PathBuf {
    let token = kubectl.run(&["--namespace", namespace, "create", "token", account, "--duration=24h"]);
    let mut config: Value = serde_saphyr::from_str(&fs::read_to_string(kubectl.kubeconfig()).unwrap()).unwrap();
    for user in config["users"].as_array_mut().unwrap() {
        user["user"] = json!({ "token": token.trim() });
    }
    let path = path_of(kubectl.kubeconfig(), namespace, account);
    fs::write(&path, config.to_string()).unwrap();
    path
}

/// The account, the chart's roles, and their bindings. The policies that bound them are tested with the chart.
fn objects(namespace: &str) -> Vec<Value> {
    let rules = |name: &str| -> Value {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/charts/stash-fs/files/rbac");
        serde_saphyr::from_str(&fs::read_to_string(folder.join(name)).unwrap()).unwrap()
    };
    let in_cluster_rules = [rules("cluster.yaml"), rules("bounded.yaml")];
    let in_cluster_rules: Vec<&Value> = in_cluster_rules.iter().flat_map(|rules| rules.as_array().unwrap()).collect();
    let api = "rbac.authorization.k8s.io/v1";
    let in_cluster = json!({ "name": format!("{ACCOUNT}-{namespace}") });
    let in_namespace = json!({ "name": ACCOUNT, "namespace": namespace });
    let subjects = json!([{ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace }]);
    let role = |kind: &str, metadata: &Value| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": metadata["name"] });
    vec![
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": in_namespace }),
        json!({ "apiVersion": api, "kind": "ClusterRole", "metadata": in_cluster, "rules": in_cluster_rules }),
        json!({ "apiVersion": api, "kind": "ClusterRoleBinding", "metadata": in_cluster,
            "roleRef": role("ClusterRole", &in_cluster), "subjects": subjects }),
        json!({ "apiVersion": api, "kind": "Role", "metadata": in_namespace, "rules": rules("release.yaml") }),
        json!({ "apiVersion": api, "kind": "RoleBinding", "metadata": in_namespace,
            "roleRef": role("Role", &in_namespace), "subjects": subjects }),
    ]
}
