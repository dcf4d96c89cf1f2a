//! The Helm chart: what it renders, what it refuses, and what a real API server makes of it.

mod at_start;
mod populate;
mod rendered;
mod secrets;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use stash_tests::cluster::{ApiServer, Kubectl, wait_until};
use stash_tests::controller::{Controller, kubeconfig_of};
use stash_tests::fixture::run;
use stash_tests::servers::tool;

/// The release and its namespace.
const RELEASE: &str = "stash-fs";
const NAMESPACE: &str = "backups";
/// The account that the chart makes for the controller.
const ACCOUNT: &str = "stash-fs-controller";
/// The definition that other operators install as well.
const APP_BINDING: &str = "appbindings.appcatalog.appscode.com";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn chart() -> PathBuf {
    root().join("deploy/charts/stash-fs")
}

/// Values that turn everything on.
fn everything() -> String {
    chart().join("ci/everything-values.yaml").display().to_string()
}

/// helm, for a server or for none.
struct Helm {
    kubeconfig: PathBuf,
    home: tempfile::TempDir,
}

impl Helm {
    fn without_server() -> Self {
        Self { kubeconfig: PathBuf::from("/nonexistent"), home: tempfile::tempdir().unwrap() }
    }

    fn of(server: &ApiServer) -> Self {
        Self { kubeconfig: server.kubectl().kubeconfig().to_owned(), ..Self::without_server() }
    }

    fn try_run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(tool("helm"));
        command.env_clear().env("HOME", self.home.path()).env("KUBECONFIG", &self.kubeconfig).args(arguments);
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stdout) + &text(&output.stderr))
        }
    }

    fn run(&self, arguments: &[&str]) -> String {
        self.try_run(arguments).unwrap_or_else(|error| panic!("helm {}: {error}", arguments.join(" ")))
    }

    /// Runs `install` or `upgrade` of the release.
    fn release(&self, verb: &str, chart: &Path, more: &[&str]) -> Result<String, String> {
        let chart = chart.display().to_string();
        self.try_run(&[&[verb, RELEASE, &chart, "--namespace", NAMESPACE], more].concat())
    }

    /// Renders the chart as for a cluster that has all kinds of Kubernetes.
    fn render(&self, more: &[&str]) -> String {
        let kinds = "--api-versions=admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy";
        self.release("template", &chart(), &[&[kinds], more].concat()).unwrap()
    }
}

/// An API server with the release's namespace.
fn server() -> ApiServer {
    let server = ApiServer::start();
    server.kubectl().run(&["create", "namespace", NAMESPACE]);
    server
}

/// A server with the chart, and the way in as the controller's account.
struct Installed {
    server: ApiServer,
    helm: Helm,
    kubeconfig: PathBuf,
}

impl Installed {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(values: &[&str]) -> Self {
        let server = server();
        let helm = Helm::of(&server);
        helm.release("install", &chart(), values).unwrap();
        server.kubectl().wait_for_definitions();
        let kubeconfig = kubeconfig_of(server.kubectl(), NAMESPACE, ACCOUNT);
        let installed = Self { server, helm, kubeconfig };
        // The API server has to find the definition by which a policy judges; until then it refuses all.
        wait_until("the policies to know Repositories", || {
            let (apply, role) =
                (["apply", "--server-side", "--dry-run=server", "-f", "-"], secrets::role("default", json!({})));
            // Before it knows of the policy itself, it refuses nothing.
            let refused = installed.account().try_run(&apply, &role.to_string()).err()?;
            refused.contains("no params found").then_some(())
        });
        installed
    }

    fn kubectl(&self) -> &Kubectl {
        self.server.kubectl()
    }

    fn account(&self) -> Kubectl {
        Kubectl::new(self.kubeconfig.clone())
    }

    /// Starts the controller by its account.
    fn controller(&self) -> Controller {
        self.controller_with(&[])
    }

    fn controller_with(&self, more: &[&str]) -> Controller {
        let log = self.helm.home.path().join("controller.log");
        let arguments = [&["--jitter=0s", "--namespace", NAMESPACE], more].concat();
        Controller::start_as(&self.kubeconfig, &log, &arguments)
    }
}

fn names(kubectl: &Kubectl, kind: &str) -> Vec<String> {
    let listed = kubectl.run(&["get", kind, "-A", "-o", "name"]);
    listed.lines().map(|line| line.rsplit('/').next().unwrap().to_owned()).collect()
}

fn get(kubectl: &Kubectl, what: &[&str]) -> Value {
    serde_json::from_str(&kubectl.run(&[&["get", "-o", "json"], what].concat())).unwrap()
}

#[test]
fn test_a_real_api_server_takes_all_that_is_rendered() {
    let (server, helm) = (server(), Helm::without_server());
    // Kinds of the Prometheus operator, of which the names count here.
    for (kind, plural) in [("ServiceMonitor", "servicemonitors"), ("PrometheusRule", "prometheusrules")] {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        server.kubectl().apply(&json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.monitoring.coreos.com")},
            "spec": {"group": "monitoring.coreos.com", "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}
        }));
    }
    server.kubectl().wait_for_definitions();
    let values = format!("--values={}", everything());
    for more in [&[][..], &[values.as_str()]] {
        let rendered = helm.render(more);
        let arguments = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"];
        server.kubectl().try_run(&arguments, &rendered).unwrap_or_else(|error| panic!("{more:?}: {error}"));
    }
    // A namespace that enforces the strictest of Kubernetes' standards takes the controller's pod.
    let strict = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    server
        .kubectl()
        .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "strict", "labels": strict}}));
    let deployment = rendered::objects(&helm.render(&[values.as_str()]));
    let deployment = deployment.iter().find(|object| object["kind"] == "Deployment").unwrap();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "controller", "namespace": "strict"},
        "spec": deployment["spec"]["template"]["spec"]});
    server.kubectl().try_run(&["apply", "--dry-run=server", "--validate=strict", "-f", "-"], &pod.to_string()).unwrap();
}

#[test]
fn test_definitions_are_upgraded_and_stay() {
    let server = server();
    let (helm, kubectl) = (Helm::of(&server), server.kubectl());
    let notes = helm.release("install", &chart(), &[]).unwrap();
    assert!(notes.contains("pod-security.kubernetes.io/enforce=privileged"), "{notes}");
    let definitions = names(kubectl, "crd");
    assert_eq!(definitions.len(), 11, "{definitions:?}");
    // The record of a release is a Secret, which Kubernetes bounds at 1 MiB.
    let record = get(kubectl, &["secrets", "-n", NAMESPACE, "-l", "owner=helm"]);
    let bytes = record["items"][0]["data"]["release"].as_str().unwrap().len() / 4 * 3;
    assert!((100_000..512 * 1024).contains(&bytes), "{bytes}");

    let repository = json!({"apiVersion": "stash.appscode.com/v1alpha1", "kind": "Repository",
        "metadata": {"name": "stays", "namespace": NAMESPACE},
        "spec": {"backend": {"storageSecretName": "s", "s3": {"endpoint": "s3.example.org", "bucket": "b"}}}});
    kubectl.wait_for_definitions();
    kubectl.apply(&repository);

    let folder = tempfile::tempdir().unwrap();
    let newer = folder.path().join("stash-fs");
    run(Command::new("cp").arg("-a").arg(chart()).arg(&newer));
    let file = newer.join("files/crds/stash.appscode.com_repositories.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("    shortNames:\n", "    shortNames:\n    - newer\n")).unwrap();
    helm.release("upgrade", &newer, &[]).unwrap();
    let upgraded = get(kubectl, &["crd", "repositories.stash.appscode.com"]);
    assert_eq!(upgraded["spec"]["names"]["shortNames"][0], "newer");
    assert_eq!(upgraded["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");

    // One that is left alone from now on is not deleted either.
    helm.release("upgrade", &newer, &["--set", &format!("crds.exclude={{{APP_BINDING}}}")]).unwrap();
    helm.release("upgrade", &newer, &["--set", "crds.install=false"]).unwrap();
    assert_eq!(names(kubectl, "crd"), definitions);

    helm.run(&["uninstall", RELEASE, "--namespace", NAMESPACE]);
    assert_eq!(names(kubectl, "crd"), definitions);
    assert_eq!(names(kubectl, "repositories"), ["stays"]);
    for kind in ["deployments", "validatingadmissionpolicies", "validatingadmissionpolicybindings", "networkpolicies"] {
        assert_eq!(names(kubectl, kind), [""; 0], "{kind}");
    }
    assert!(!names(kubectl, "clusterroles").iter().any(|name| name.contains("stash")));
    helm.release("install", &chart(), &[]).unwrap();
    assert_eq!(names(kubectl, "repositories"), ["stays"]);
}

#[test]
fn test_what_is_anothers_is_left_alone() {
    let server = server();
    let (helm, kubectl) = (Helm::of(&server), server.kubectl());
    // Definitions as Stash leaves them, and one of AppBinding as a catalog has it.
    let definitions = root().join("deploy/crds").display().to_string();
    kubectl.run(&["apply", "--server-side", "-f", &definitions]);
    let before = get(kubectl, &["crd", APP_BINDING]);
    refuses_beside_stash(&helm, kubectl);

    let refused = helm.release("install", &chart(), &[]).unwrap_err();
    assert!(refused.contains("cannot be imported into the current release"), "{refused}");
    helm.release("install", &chart(), &["--take-ownership"]).unwrap();
    let ours = get(kubectl, &["crd", "repositories.stash.appscode.com"]);
    assert_eq!(ours["metadata"]["annotations"]["meta.helm.sh/release-name"], RELEASE);
    helm.release("upgrade", &chart(), &[]).unwrap();
    let after = get(kubectl, &["crd", APP_BINDING]);
    assert_eq!(after["metadata"]["annotations"], before["metadata"]["annotations"]);
    assert_eq!(after["metadata"]["generation"], before["metadata"]["generation"]);
}

/// While an APIService of Stash's server or one of its webhook configurations is there, nothing is installed.
fn refuses_beside_stash(helm: &Helm, kubectl: &Kubectl) {
    let service = |group: &str, version: &str| {
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": format!("{version}.{group}")},
            "spec": {"group": group, "version": version, "groupPriorityMinimum": 10000, "versionPriority": 15,
                "insecureSkipTLSVerify": true, "service": {"name": "stash", "namespace": "default"}}})
    };
    let webhooks = |kind: &str| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": {"name": "admission.stash.appscode.com"}})
    };
    for object in [
        service("admission.stash.appscode.com", "v1alpha1"),
        service("admission.stash.appscode.com", "v1beta1"),
        webhooks("MutatingWebhookConfiguration"),
        webhooks("ValidatingWebhookConfiguration"),
    ] {
        kubectl.apply(&object);
        let what = format!(
            "{}/{}",
            object["kind"].as_str().unwrap().to_lowercase(),
            object["metadata"]["name"].as_str().unwrap()
        );
        let refused = helm.release("install", &chart(), &["--take-ownership"]).unwrap_err();
        assert!(refused.contains("Stash's operator is installed"), "{refused}");
        assert!(refused.contains(&format!("kubectl delete {what}")), "{refused}");
        kubectl.run(&["delete", &what]);
    }
    assert_eq!(names(kubectl, "deployments"), [""; 0]);
}

#[test]
fn test_the_controller_works_with_what_the_chart_gives_it() {
    let installed = Installed::start();
    let (server, kubectl, account) = (&installed.server, installed.kubectl(), installed.account());
    policies_hold(&account);
    commands_are_not_run_in_the_own_namespace(kubectl, &account);
    volumes_of_others_are_left_alone(kubectl);
    populate::test_populate(server);

    // What the README has, to the letter.
    let shop = server.namespace();
    shop.apply(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}));
    let [objects, session, pod, restore] = <[String; 4]>::try_from(manifests_of_the_readme()).unwrap();
    let in_shop = |verb: &str, text: &str| {
        let arguments = ["--namespace", shop.name(), verb, "--validate=strict", "-o", "name", "-f", "-"];
        kubectl.try_run(&arguments, text).unwrap()
    };
    in_shop("apply", &objects);
    for later in [pod, restore] {
        let arguments = ["--namespace", shop.name(), "create", "--dry-run=server", "--validate=strict", "-f", "-"];
        kubectl.try_run(&arguments, &later).unwrap();
    }
    let controller = installed.controller();
    shop.wait("backupconfiguration/data", "jsonpath={.status.phase}=Ready");
    let session = in_shop("create", &session);
    let name = session.trim().rsplit('/').next().unwrap();
    let job = format!("stash-backup-{name}-0");
    wait_until("the Job's Secret", || {
        let found = kubectl.try_run(&["-n", shop.name(), "get", "secret", &job, "-o", "json"], "").ok()?;
        Some(serde_json::from_str::<Value>(&found).unwrap())
    });
    shop.wait(&format!("backupsession/{name}"), "jsonpath={.status.phase}=Running");
    let told = wait_until("events", || {
        let events = shop.get("events.events.k8s.io");
        let reasons: Vec<String> = events["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|event| event["reason"].as_str().map(str::to_owned))
            .collect();
        (!reasons.is_empty()).then_some(reasons)
    });
    let log = controller.log();
    assert!(!log.contains("forbidden") && !log.contains("denied"), "{told:?} {log}");
    assert!(controller.stop());
}

/// Returns the manifests of the README's part about Kubernetes.
fn manifests_of_the_readme() -> Vec<String> {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let part = readme.split("\n## ").find(|part| part.starts_with("In Kubernetes")).unwrap();
    part.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// What the account may create is narrower than its roles say.
fn policies_hold(account: &Kubectl) {
    let owner = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u"}]);
    let secret = |more: Value| {
        let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "immutable": true,
            "metadata": {"name": "s", "namespace": "default", "ownerReferences": owner}});
        merge(&mut secret, more);
        secret
    };
    let job = |namespace: &str, more: Value| {
        let container =
            json!({"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}]});
        let mut pod = json!({"restartPolicy": "Never", "automountServiceAccountToken": false, "containers": [container],
            "volumes": [{"name": "v", "hostPath": {"path": "/var"}}]});
        merge(&mut pod, more);
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": namespace},
            "spec": {"template": {"spec": pod}}})
    };
    let of_job = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "stash-access-r", "uid": "u"}]);
    let policy = |more: Value| {
        let selector = json!({"matchLabels": {"batch.kubernetes.io/job-name": "stash-access-r"}});
        let mut policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "n", "namespace": "default", "ownerReferences": of_job},
            "spec": {"podSelector": selector, "policyTypes": ["Ingress", "Egress"], "ingress": [{"ports": [{"port": 8443}]}]}});
        merge(&mut policy, more);
        policy
    };
    let all_pods = json!({"spec": {"podSelector": {"matchLabels": null}}});
    let other_job = json!({"spec": {"podSelector": {"matchLabels": {"batch.kubernetes.io/job-name": "another"}}}});
    let (own_pods, no_calls) = ("NetworkPolicies of its own Jobs' pods only", "pods that call nobody");
    let writes =
        json!({"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]});
    let privileged = json!({"containers": [{"name": "c", "image": "i", "securityContext": {"privileged": true}}]});
    let token = json!({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]});
    let of_account = json!({"kubernetes.io/service-account.name": "default"});
    let for_token = json!({"type": "kubernetes.io/service-account-token", "metadata": {"annotations": of_account}});
    let no_token = "Jobs without the token of an account only";
    // What is mounted is the Job's own, and its name one of ours: a Job has the name of no other Secret.
    let mounts = |name: &str, volume: Value| {
        let mut job = job("default", json!({"volumes": [merged(volume, json!({"name": "v"}))]}));
        job["metadata"]["name"] = json!(name);
        job
    };
    let of_secret = |name: &str| json!({"secret": {"secretName": name}});
    let projected = json!({"projected": {"sources": [{"secret": {"name": "stash-backup-x-0"}}]}});
    let own_only = "Jobs mount their own Secret only";
    let shown = |attributes: Value| {
        json!({"csi": {"driver": "fs.stash.appscode.com", "readOnly": true, "volumeAttributes": attributes,
            "nodePublishSecretRef": {"name": "keys"}}})
    };
    let snapshot = || shown(json!({"repository": "repo", "snapshot": "0a1b"}));
    let elsewhere = shown(json!({"repository": "repo", "snapshot": "0a1b", "repositoryNamespace": "storage"}));
    let mut writable = snapshot();
    writable["csi"]["readOnly"] = json!(false);
    let only_read = "mount snapshots of their own namespace only, and read them";
    let takes =
        |more: Value| json!({"containers": [merged(json!({"name": "c", "image": "i"}), more)], "volumes": null});
    let value_from = json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]});
    let all_from = json!({"envFrom": [{"secretRef": {"name": "s"}}]});
    let no_environment = "take nothing of their environment from Secrets";
    let cases = [
        (mounts("stash-backup-x-0", of_secret("stash-backup-x-0")), None),
        (mounts("stash-backup-x-0", of_secret("other")), Some(own_only)),
        (mounts("database", of_secret("database")), Some(own_only)),
        (mounts("stash-backup-x-0", projected), Some(own_only)),
        (mounts("stash-restore-x-0", snapshot()), None),
        (mounts("stash-backup-x-0", snapshot()), Some(only_read)),
        (mounts("stash-restore-x-0", elsewhere), Some(only_read)),
        (mounts("stash-restore-x-0", writable), Some(only_read)),
        // A `local` backend may be a volume of another driver.
        (mounts("stash-backup-x-0", json!({"csi": {"driver": "nfs.csi.k8s.io"}})), None),
        (job("default", takes(json!({"env": [{"name": "A", "value": "b"}]}))), None),
        (job("default", takes(value_from)), Some(no_environment)),
        (job("default", takes(all_from)), Some(no_environment)),
        (secret(json!({})), None),
        (secret(for_token), Some("Opaque Secrets only")),
        (secret(json!({"immutable": false})), Some("immutable Secrets only")),
        (secret(json!({"metadata": {"ownerReferences": []}})), Some("Secrets of Jobs only")),
        (job(NAMESPACE, json!({})), None),
        (job("default", json!({})), None),
        (job(NAMESPACE, json!({"automountServiceAccountToken": true})), Some(no_token)),
        (job("default", json!({"automountServiceAccountToken": null})), Some(no_token)),
        (job("default", token), Some(no_token)),
        (job("default", json!({"hostNetwork": true})), Some("outside of the node's network")),
        (job("default", json!({"hostPID": true})), Some("outside of the node's network")),
        // There Pod Security judges, as it does with a `local` backend.
        (job("default", writes.clone()), None),
        (job(NAMESPACE, writes), Some("never write there")),
        (job(NAMESPACE, privileged), Some("are not privileged")),
        (policy(json!({})), None),
        (policy(all_pods), Some(own_pods)),
        (policy(other_job), Some(own_pods)),
        (policy(json!({"metadata": {"ownerReferences": []}})), Some(own_pods)),
        (policy(json!({"metadata": {"ownerReferences": owner}})), Some(own_pods)),
        (policy(json!({"spec": {"egress": [{}]}})), Some(no_calls)),
    ];
    let dry_run = ["create", "--dry-run=server", "-f", "-"];
    // A policy is in force a moment after it was made.
    for (object, _) in cases.iter().filter(|(_, refusal)| refusal.is_some()) {
        wait_until("the policies", || account.try_run(&dry_run, &object.to_string()).is_err().then_some(()));
    }
    for (object, refusal) in cases {
        match (account.try_run(&dry_run, &object.to_string()), refusal) {
            (Ok(_), None) => {}
            (Err(error), Some(refusal)) => assert!(error.contains(refusal), "{object}: {error}"),
            (made, refusal) => panic!("{object}: {made:?}, not {refusal:?}"),
        }
    }
}

/// The controller runs no commands beside its own Jobs, and what others may is not touched.
fn commands_are_not_run_in_the_own_namespace(kubectl: &Kubectl, account: &Kubectl) {
    kubectl.run(&["create", "namespace", "other"]);
    for namespace in ["other", NAMESPACE] {
        kubectl.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": namespace},
            "spec": {"nodeName": "nowhere", "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]}}));
    }
    // Its own rights allow it nowhere; the policy holds whatever they are.
    let group = "rbac.authorization.k8s.io";
    let rule = json!({"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create", "get"]});
    let (api, name) = (format!("{group}/v1"), json!({"name": "commands"}));
    kubectl.apply(&json!({"apiVersion": api, "kind": "ClusterRole", "metadata": name, "rules": [rule]}));
    kubectl.apply(&json!({"apiVersion": api, "kind": "ClusterRoleBinding", "metadata": name,
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "commands"},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}]}));
    let run =
        |who: &Kubectl, namespace: &str| who.try_run(&["exec", "-n", namespace, "web", "--", "true"], "").unwrap_err();
    wait_until("the policy", || {
        run(account, NAMESPACE).contains("the controller runs no commands in its own namespace").then_some(())
    });
    // No node is there: what is let pass is looked for in vain.
    for (who, namespace) in [(account, "other"), (kubectl, "other"), (kubectl, NAMESPACE)] {
        let said = run(who, namespace);
        assert!(said.contains("nowhere") && !said.contains("denied"), "{namespace}: {said}");
    }
}

/// What makes volumes for claims makes and deletes none of another driver.
fn volumes_of_others_are_left_alone(kubectl: &Kubectl) {
    let account = Kubectl::new(kubeconfig_of(kubectl, NAMESPACE, "stash-fs-provisioner"));
    let volume = |name: &str, source: Value| {
        let mut volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadOnlyMany"]}});
        merge(&mut volume["spec"], source);
        volume
    };
    let of = |driver: &str| json!({"csi": {"driver": driver, "volumeHandle": "v"}});
    kubectl.apply(&volume("theirs", of("ebs.csi.aws.com")));
    kubectl.apply(&volume("ours", of("fs.stash.appscode.com")));
    let dry_run = ["create", "--dry-run=server", "-f", "-"];
    let folder = volume("folder", json!({"hostPath": {"path": "/etc"}})).to_string();
    wait_until("the policy", || {
        let refused = account.try_run(&dry_run, &folder).err()?;
        refused.contains("volumes of its own driver only").then_some(())
    });
    assert!(account.try_run(&dry_run, &volume("new", of("ebs.csi.aws.com")).to_string()).is_err());
    account.try_run(&dry_run, &volume("new", of("fs.stash.appscode.com")).to_string()).unwrap();
    let refused = account.try_run(&["delete", "persistentvolume", "theirs"], "").unwrap_err();
    assert!(refused.contains("volumes of its own driver only"), "{refused}");
    account.run(&["delete", "persistentvolume", "ours", "--wait=false"]);
}

/// Returns `object` with `more` over it.
fn merged(mut object: Value, more: Value) -> Value {
    merge(&mut object, more);
    object
}

/// Puts `more` over `object`; null takes away.
fn merge(object: &mut Value, more: Value) {
    match (object, more) {
        (Value::Object(object), Value::Object(more)) => {
            for (key, value) in more {
                if value.is_null() {
                    object.remove(&key);
                } else {
                    merge(object.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (object, more) => *object = more,
    }
}
