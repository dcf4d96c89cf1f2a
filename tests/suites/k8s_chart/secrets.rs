//! The controller reads the Secrets that Repositories name, and its account can give itself no right to others.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stash_tests::cluster::{Kubectl, Namespace, wait_until};

use super::{ACCOUNT, Installed, NAMESPACE, get, merge, merged, names};

/// The name of the Role and of its binding.
const ROLE: &str = "stash-fs-repositories";
/// The same, where hooks are commands.
const HOOKS: &str = "stash-fs-hooks";
/// How soon a change of a Secret shows: before the controller would look again by itself, which is after 10 s.
const SOON: Duration = Duration::from_secs(9);

fn repository(name: &str, secret: &str) -> Value {
    // An address that is refused: nothing is connected to.
    json!({"apiVersion": "stash.appscode.com/v1alpha1", "kind": "Repository", "metadata": {"name": name},
        "spec": {"backend": {"storageSecretName": secret, "s3": {"endpoint": "http://127.0.0.1", "bucket": "b"}}}})
}

fn secret(name: &str, keys: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": keys})
}

fn password() -> Value {
    json!({"RESTIC_PASSWORD": "p"})
}

/// What is said of a Repository's Secret.
fn said(repository: &Value) -> Option<String> {
    let conditions = repository["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == "BackendSecretFound")?;
    found["reason"].as_str().map(str::to_owned)
}

fn wait_for(shop: &Namespace<'_>, name: &str, reason: &str) {
    let what = format!("{name} to say {reason}");
    wait_until(&what, || (said(&shop.get(&format!("repository/{name}"))).as_deref() == Some(reason)).then_some(()));
}

/// Whether the account reads a Secret. That there is none is an answer too.
fn reads(account: &Kubectl, namespace: &str, name: &str) -> bool {
    match account.try_run(&["-n", namespace, "get", "secret", name], "") {
        Ok(_) => true,
        Err(error) => {
            assert!(error.contains("NotFound") || error.contains("orbidden"), "{error}");
            error.contains("NotFound")
        }
    }
}

#[test]
fn test_the_controller_reads_the_secrets_that_repositories_name_and_no_others() {
    let installed = Installed::start();
    let (server, kubectl, account) = (&installed.server, installed.kubectl(), installed.account());
    let controller = installed.controller();
    let (shop, bank) = (server.namespace(), server.namespace());
    for namespace in [&shop, &bank] {
        ["a", "b"].iter().for_each(|name| namespace.apply(secret(name, &password())));
        assert!(!reads(&account, namespace.name(), "a"));
    }

    shop.apply(repository("one", "a"));
    wait_for(&shop, "one", "BackendSecretAvailable");
    let readable = |namespace: &Namespace<'_>| ["a", "b"].map(|name| reads(&account, namespace.name(), name));
    assert_eq!((readable(&shop), readable(&bank)), ([true, false], [false, false]));
    // A list is of all, and a name alone makes none of the other verbs.
    for arguments in [
        &["get", "secrets"][..],
        &["get", "secrets", "-A"],
        &["delete", "secret", "a"],
        &["annotate", "secret", "a", "x=y"],
    ] {
        let refused = account.try_run(&[&["-n", shop.name()], arguments].concat(), "").unwrap_err();
        assert!(refused.contains("orbidden"), "{arguments:?}: {refused}");
    }

    // A change, an end and a beginning show at once.
    let soon = |reason: &str, change: &dyn Fn()| {
        let before = Instant::now();
        change();
        wait_for(&shop, "one", reason);
        assert!(before.elapsed() < SOON, "{reason} after {:?}", before.elapsed());
    };
    soon("BackendSecretKeyMissing", &|| shop.apply(secret("a", &json!({"RESTIC_PASSWORD": ""}))));
    soon("BackendSecretAvailable", &|| shop.apply(secret("a", &password())));
    soon("BackendSecretNotAvailable", &|| drop(shop.run(&["delete", "secret", "a"])));
    soon("BackendSecretAvailable", &|| shop.apply(secret("a", &password())));

    // Another Repository of the same Secret changes nothing, one of another adds that.
    let version = || get(kubectl, &["-n", shop.name(), "role", ROLE])["metadata"]["resourceVersion"].clone();
    let before = version();
    shop.apply(repository("same", "a"));
    wait_for(&shop, "same", "BackendSecretAvailable");
    assert_eq!(version(), before);
    shop.apply(repository("two", "b"));
    wait_for(&shop, "two", "BackendSecretAvailable");
    assert_eq!((readable(&shop), readable(&bank)), ([true, true], [false, false]));
    shop.apply(repository("two", "a"));
    wait_until("the other Secret to be out of reach", || (readable(&shop) == [true, false]).then_some(()));

    // What somebody changes or deletes is made as it was.
    shop.run(&["delete", "role", ROLE]);
    wait_until("the Role", || names(kubectl, "roles").contains(&ROLE.to_owned()).then_some(()));
    let rules = json!({"rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]});
    shop.run(&["patch", "role", ROLE, "--type=merge", "-p", &rules.to_string()]);
    wait_until("the Role as it was", || (readable(&shop) == [true, false]).then_some(()));

    // With the last Repository the right goes; also of one that went while nobody looked.
    bank.apply(repository("one", "b"));
    wait_for(&bank, "one", "BackendSecretAvailable");
    assert_eq!(readable(&bank), [false, true]);
    shop.run(&["delete", "repository", "one", "same", "two"]);
    wait_until("the right to go", || (readable(&shop) == [false, false]).then_some(()));
    let told = controller.log();
    assert!(!told.contains("forbidden") && !told.contains("denied"), "{told}");
    assert!(controller.stop());
    bank.run(&["delete", "repository", "one"]);
    let controller = installed.controller();
    for kind in ["roles", "rolebindings"] {
        wait_until(kind, || (!names(kubectl, kind).contains(&ROLE.to_owned())).then_some(()));
    }
    assert_eq!(readable(&bank), [false, false]);
    assert!(controller.stop());
}

#[test]
fn test_the_account_gives_itself_no_other_right() {
    let installed = Installed::start();
    let (kubectl, account) = (installed.kubectl(), installed.account());
    kubectl.run(&["create", "namespace", "shop"]);
    let mut of_shop = repository("one", "a");
    of_shop["metadata"]["namespace"] = json!("shop");
    kubectl.apply(&of_shop);
    // The policies are there before the rights are tried, and know the Repository.
    let good = role("shop", json!({}));
    let apply = ["apply", "--server-side", "--dry-run=server", "-f", "-"];
    wait_until("the policies", || {
        account.try_run(&apply, &role("default", json!({})).to_string()).is_err().then_some(())
    });
    wait_until("the Repository to be known", || account.try_run(&apply, &good.to_string()).ok());

    // By the account's own rights.
    let passes = |object: &Value| account.try_run(&apply, &object.to_string());
    passes(&binding("shop", json!({}))).unwrap();
    for (object, refusal) in [
        (role("shop", json!({"metadata": {"name": "another"}})), "forbidden"),
        (role("default", json!({})), "no params found"),
        (binding("default", json!({})), "no params found"),
        (role(NAMESPACE, json!({})), "no params found"),
        (role("shop", json!({"kind": "ClusterRole", "metadata": {"namespace": null}})), "forbidden"),
    ] {
        let refused = passes(&object).unwrap_err();
        assert!(refused.contains(refusal), "{object}: {refused}");
    }

    // The policies hold whatever its roles say.
    let rule = json!({"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["*"], "verbs": ["*"]});
    let name = json!({"name": "wider"});
    let api = "rbac.authorization.k8s.io/v1";
    kubectl.apply(&json!({"apiVersion": api, "kind": "ClusterRole", "metadata": name, "rules": [rule]}));
    kubectl.apply(&json!({"apiVersion": api, "kind": "ClusterRoleBinding", "metadata": name,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "wider"},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}]}));
    let may = ["auth", "can-i", "escalate", "clusterroles"];
    wait_until("the wider rights", || account.try_run(&may, "").ok());
    let rule = |more: Value| {
        let mut rule = good["rules"][0].clone();
        merge(&mut rule, more);
        role("shop", json!({ "rules": [rule] }))
    };
    let (reads_only, named) = (
        "Roles stash-fs-repositories that read Secrets only",
        "Roles stash-fs-repositories that name each Secret only",
    );
    let (binds, own) = ("binds a Role by the binding of its name only", "binds Roles to its own account only");
    let subject = |kind: &str, name: &str, namespace: Value| {
        let mut subject = json!({"kind": kind, "name": name});
        merge(&mut subject, json!({ "namespace": namespace }));
        subject
    };
    let us = subject("ServiceAccount", ACCOUNT, json!(NAMESPACE));
    let to = |subjects: Value| binding("shop", json!({ "subjects": subjects }));
    let (runs, label) =
        ("Roles stash-fs-hooks that run commands in pods only", "is for the Role stash-fs-hooks and its binding only");
    let of_hooks = json!({"metadata": {"labels": {"app.kubernetes.io/component": "hooks"}}});
    let cluster = json!({"metadata": {"namespace": null}});
    let of_cluster = |mut object: Value, kind: &str| {
        merge(&mut object, cluster.clone());
        object["kind"] = json!(kind);
        object
    };
    for (object, refusal) in [
        (good.clone(), None),
        (rule(json!({"verbs": ["get"]})), None),
        (rule(json!({"verbs": ["get", "delete"]})), Some(reads_only)),
        (rule(json!({"verbs": ["*"]})), Some(reads_only)),
        (rule(json!({"resources": ["pods"]})), Some(reads_only)),
        (rule(json!({"resources": ["secrets", "pods"]})), Some(reads_only)),
        (rule(json!({"resources": ["*"]})), Some(reads_only)),
        (rule(json!({"apiGroups": ["*"]})), Some(reads_only)),
        (rule(json!({"resourceNames": null})), Some(named)),
        (rule(json!({"resourceNames": []})), Some(named)),
        // That would be the name of a list of all.
        (rule(json!({"resourceNames": ["a", ""]})), Some(named)),
        (role("shop", json!({"rules": []})), Some(reads_only)),
        (role("shop", json!({"rules": [good["rules"][0], good["rules"][0]]})), Some(reads_only)),
        (
            role("shop", json!({"metadata": {"name": "another"}})),
            Some("of the names stash-fs-repositories, stash-fs-hooks, stash-fs-restores only"),
        ),
        (role("default", json!({})), Some("no params found")),
        (role("default", json!({"metadata": {"labels": null}})), Some("with the label app.kubernetes.io/managed-by")),
        (
            binding("default", json!({"metadata": {"labels": null}})),
            Some("with the label app.kubernetes.io/managed-by"),
        ),
        (binding("shop", json!({})), None),
        (
            binding("shop", json!({"metadata": {"name": "another"}})),
            Some("of the names stash-fs-repositories, stash-fs-hooks, stash-fs-restores only"),
        ),
        (binding("shop", json!({"roleRef": {"name": "another"}})), Some(binds)),
        (binding("shop", json!({"roleRef": {"kind": "ClusterRole"}})), Some(binds)),
        (to(json!([subject("ServiceAccount", "default", json!(NAMESPACE))])), Some(own)),
        (to(json!([subject("ServiceAccount", ACCOUNT, json!("shop"))])), Some(own)),
        (to(json!([subject("User", "jane", Value::Null)])), Some(own)),
        (to(json!([us, subject("User", "jane", Value::Null)])), Some(own)),
        (to(json!([])), Some(own)),
        (binding("default", json!({})), Some("no params found")),
        // Hooks are of namespaces without a Repository too, and the label that says so is theirs alone.
        (hooks("default", json!({})), None),
        (hooks_binding("default", json!({})), None),
        (
            hooks(
                "default",
                json!({"rules": [{"apiGroups": [""], "resources": ["pods/exec", "secrets"], "verbs": ["get"]}]}),
            ),
            Some(runs),
        ),
        (
            hooks("default", json!({"rules": [{"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["*"]}]})),
            Some(runs),
        ),
        (
            hooks("default", json!({"rules": [{"apiGroups": ["*"], "resources": ["pods/exec"], "verbs": ["get"]}]})),
            Some(runs),
        ),
        (hooks("default", json!({"rules": []})), Some(runs)),
        (hooks("default", json!({"rules": good["rules"]})), Some(runs)),
        (hooks(NAMESPACE, json!({})), Some("runs no commands in its own namespace")),
        (hooks_binding(NAMESPACE, json!({})), Some("runs no commands in its own namespace")),
        (hooks_binding("shop", json!({"roleRef": {"name": ROLE}})), Some(binds)),
        (hooks_binding("default", json!({"subjects": [subject("User", "jane", Value::Null)]})), Some(own)),
        (role("default", of_hooks.clone()), Some(label)),
        (binding("default", of_hooks), Some(label)),
        (hooks("shop", json!({"metadata": {"labels": {"app.kubernetes.io/component": null}}})), Some(label)),
        (of_cluster(good.clone(), "ClusterRole"), Some("no roles of the cluster")),
        (
            of_cluster(binding("shop", json!({"roleRef": {"kind": "ClusterRole"}})), "ClusterRoleBinding"),
            Some("no roles of the cluster"),
        ),
    ] {
        match (account.try_run(&["create", "--dry-run=server", "-f", "-"], &object.to_string()), refusal) {
            (Ok(_), None) => {}
            (Err(error), Some(refusal)) => assert!(error.contains(refusal), "{object}: {error}"),
            (made, refusal) => panic!("{object}: {made:?}, not {refusal:?}"),
        }
    }
    // Others are not judged, with or without a Repository.
    for namespace in ["default", "shop"] {
        let theirs = json!({"metadata": {"name": "theirs", "labels": null}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
        kubectl.try_run(&apply, &merged(role(namespace, json!({})), theirs).to_string()).unwrap();
    }
}

/// By this label the policy is found that asks for a Repository.
fn labels() -> Value {
    json!({"app.kubernetes.io/managed-by": "stash.appscode.com"})
}

/// The Role as the controller makes it, with `more` over it.
pub(super) fn role(namespace: &str, more: Value) -> Value {
    let rule =
        json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["get", "list", "watch"]});
    let mut role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": ROLE, "namespace": namespace, "labels": labels()}, "rules": [rule]});
    merge(&mut role, more);
    role
}

/// Its binding.
fn binding(namespace: &str, more: Value) -> Value {
    let mut binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": ROLE, "namespace": namespace, "labels": labels()},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ROLE},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}]});
    merge(&mut binding, more);
    binding
}

/// What is made where a hook is a command.
fn of_hooks(object: Value, more: Value) -> Value {
    let labels = json!({"app.kubernetes.io/component": "hooks"});
    merged(merged(object, json!({"metadata": {"name": HOOKS, "labels": labels}})), more)
}

fn hooks(namespace: &str, more: Value) -> Value {
    let rule = json!({"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]});
    of_hooks(role(namespace, json!({ "rules": [rule] })), more)
}

fn hooks_binding(namespace: &str, more: Value) -> Value {
    of_hooks(binding(namespace, json!({"roleRef": {"name": HOOKS}})), more)
}

#[test]
fn test_commands_are_allowed_where_hooks_are_some() {
    let installed = Installed::start();
    let (server, account) = (&installed.server, installed.account());
    let controller = installed.controller();
    let (shop, bank) = (server.namespace(), server.namespace());
    let runs = |namespace: &Namespace<'_>| {
        ["get", "create"].map(|verb| {
            account.try_run(&["-n", namespace.name(), "auth", "can-i", verb, "pods", "--subresource=exec"], "").is_ok()
        })
    };
    let (none, both) = ([false, false], [true, true]);
    // No Repository is there, and none is needed: it may be another namespace's.
    let hooked = |kind: &str, name: &str, hooks: Value| {
        let target = json!({"ref": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "data"}});
        let mut spec = json!({"repository": {"name": "r", "namespace": "elsewhere"}, "target": target, "hooks": hooks});
        if kind == "BackupConfiguration" {
            merge(
                &mut spec,
                json!({"schedule": "0 0 29 2 *", "retentionPolicy": {"name": "keep", "keepLast": 1, "prune": true}}),
            );
        }
        json!({"apiVersion": "stash.appscode.com/v1beta1", "kind": kind, "metadata": {"name": name}, "spec": spec})
    };
    let (command, request) = (json!({"exec": {"command": ["sync"]}}), json!({"tcpSocket": {"port": 80}}));
    shop.apply(hooked("BackupConfiguration", "one", json!({ "preBackup": request })));
    bank.apply(hooked("RestoreSession", "one", json!({ "postRestore": command })));
    wait_until("the right for a restore", || (runs(&bank) == both).then_some(()));
    assert_eq!(runs(&shop), none);
    shop.apply(hooked("BackupConfiguration", "one", json!({ "preBackup": request, "postBackup": command })));
    wait_until("the right for a backup", || (runs(&shop) == both).then_some(()));
    // With the last of them it goes.
    shop.run(&["delete", "role", HOOKS]);
    wait_until("the Role to be there again", || (runs(&shop) == both).then_some(()));
    shop.apply(hooked("BackupConfiguration", "two", json!({ "preBackup": command })));
    shop.run(&["delete", "backupconfiguration", "one"]);
    shop.apply(hooked("BackupConfiguration", "two", json!({ "preBackup": request })));
    wait_until("the right to go", || (runs(&shop) == none).then_some(()));
    assert_eq!(runs(&bank), both);
    controller.kill();
    bank.run(&["delete", "restoresession", "one"]);
    let controller = installed.controller();
    wait_until("the right to go after a restart", || (runs(&bank) == none).then_some(()));
    let told = controller.log();
    assert!(!told.contains("forbidden") && !told.contains("denied"), "{told}");
    assert!(controller.stop());
}

#[test]
fn test_hundreds_of_repositories_are_no_trouble() {
    const SPACES: usize = 3;
    const EACH: usize = 100;
    let installed = Installed::start();
    let kubectl = installed.kubectl();
    let controller = installed.controller();
    let spaces: Vec<String> = (0..SPACES).map(|number| format!("shop-{number}")).collect();
    let in_space = |mut object: Value, namespace: &str| {
        object["metadata"]["namespace"] = json!(namespace);
        object
    };
    let mut objects = Vec::new();
    for namespace in &spaces {
        kubectl.run(&["create", "namespace", namespace]);
        for number in 0..EACH {
            objects.push(in_space(secret(&format!("s{number}"), &password()), namespace));
            objects.push(in_space(repository(&format!("r{number}"), &format!("s{number}")), namespace));
        }
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    let made = Instant::now();
    kubectl.try_run(&["create", "-f", "-"], &list).unwrap();
    let created = made.elapsed();
    let count = |reason: &str| {
        let all = get(kubectl, &["repositories", "-A"]);
        all["items"].as_array().unwrap().iter().filter(|one| said(one).as_deref() == Some(reason)).count()
    };
    wait_until("all to be seen", || (count("BackendSecretAvailable") == SPACES * EACH).then_some(()));
    eprintln!("made in {created:?}, seen after {:?}; {} MB", made.elapsed(), controller.peak_memory_mb());
    let changed = Instant::now();
    kubectl.apply(&in_space(secret("s77", &json!({"RESTIC_PASSWORD": ""})), &spaces[1]));
    wait_until("the one that changed", || (count("BackendSecretKeyMissing") == 1).then_some(()));
    assert!(changed.elapsed() < SOON, "{:?}", changed.elapsed());
    assert!(controller.peak_memory_mb() < 120.0, "{} MB", controller.peak_memory_mb());
    // A restart finds all as it was, and says nothing anew.
    let versions = || {
        let all = get(kubectl, &["repositories", "-A"]);
        let of = |one: &Value| one["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        all["items"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    let before = versions();
    controller.kill();
    let controller = installed.controller();
    kubectl.apply(&in_space(secret("s77", &password()), &spaces[1]));
    wait_until("the one that changed", || (count("BackendSecretKeyMissing") == 0).then_some(()));
    assert_eq!(before.iter().zip(&versions()).filter(|(before, after)| before != after).count(), 1);
    let told = controller.log();
    assert!(!told.contains("forbidden") && !told.contains("denied"), "{told}");
    assert!(controller.stop());
}
