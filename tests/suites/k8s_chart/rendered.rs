//! What the chart renders and refuses, without a server, and what the documents say of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::{APP_BINDING, Helm, chart, everything, root};

/// Reads what helm rendered.
pub(super) fn objects(rendered: &str) -> Vec<Value> {
    let text = format!("\n{rendered}");
    let documents = text.split("\n---\n").map(|part| serde_saphyr::from_str::<Value>(part).unwrap());
    documents.filter(|document| !document.is_null()).collect()
}

fn kinds(objects: &[Value]) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for object in objects {
        *kinds.entry(object["kind"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    kinds
}

/// The controller's Deployment.
fn controller(objects: &[Value]) -> &Value {
    let is_it = |object: &&Value| object["kind"] == "Deployment" && object["metadata"]["name"] == super::ACCOUNT;
    objects.iter().find(is_it).unwrap()
}

#[test]
fn test_the_chart_is_sound() {
    let helm = Helm::without_server();
    let (chart, everything) = (chart().display().to_string(), everything());
    helm.run(&["lint", "--strict", &chart]);
    helm.run(&["lint", "--strict", &chart, "--values", &everything]);

    let plain = objects(&helm.render(&[]));
    let all = objects(&helm.render(&["--values", &everything]));
    // What needs something of a cluster that may not be there is asked for.
    let asked = ["ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "PrometheusRule", "ServiceMonitor"];
    for kind in asked {
        assert_eq!((kinds(&plain).get(kind), kinds(&all).contains_key(kind)), (None, true), "{kind}");
    }
    for (object, namespaced) in all.iter().map(|object| (object, object["metadata"]["namespace"].is_string())) {
        let kind = object["kind"].as_str().unwrap();
        let of_cluster = ["Cluster", "CSIDriver", "Custom", "StorageClass", "Validating"];
        let of_cluster = of_cluster.iter().any(|start| kind.starts_with(start));
        assert_eq!(namespaced, !of_cluster, "{object}");
        if kind != "CustomResourceDefinition" {
            assert_eq!(object["metadata"]["labels"]["team"], "storage", "{object}");
        }
    }
    let dashboard = all.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
    serde_json::from_str::<Value>(dashboard["data"]["stash-fs.json"].as_str().unwrap()).unwrap();
    let deployment = controller(&all);
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let image = format!("registry.example.org/backups/stash-controller@sha256:{}", "0".repeat(64));
    assert_eq!(container["image"], image.as_str());
    let arguments: Vec<&str> =
        container["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert!(arguments.contains(&"--image=registry.example.org/backups/stash-fs:0.1.0"), "{arguments:?}");
    assert!(arguments.contains(&"--max-running-sessions=20") && arguments.contains(&"--allow-address=198.18.255.1"));
}

#[test]
fn test_copies_go_through_the_driver_where_every_node_has_it() {
    let helm = Helm::without_server();
    for (more, expected) in
        [(&[][..], true), (&["--set", "node.copies=false"], false), (&["--set", "node.enabled=false"], false)]
    {
        let rendered = objects(&helm.render(more));
        let arguments = controller(&rendered)["spec"]["template"]["spec"]["containers"][0]["args"].clone();
        let has = arguments.as_array().unwrap().iter().any(|word| word == "--copy-by-volume");
        assert_eq!(has, expected, "{more:?}");
    }
}

#[test]
fn test_the_controllers_command_line_takes_what_the_chart_says() {
    use std::process::Command;
    let helm = Helm::without_server();
    let everything = everything();
    for more in [&[][..], &["--values", &everything]] {
        let rendered = objects(&helm.render(more));
        let deployment = controller(&rendered);
        let arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap().clone();
        let mut command = Command::new(stash_tests::mounted::sibling("stash-controller"));
        // It ends because there is no cluster: a command line that it does not know would be told before.
        command.env_clear().env("KUBECONFIG", "/nonexistent");
        command.args(arguments.iter().map(|word| word.as_str().unwrap().replace("0.0.0.0:8080", "127.0.0.1:0")));
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("failed to find the API server"), "{told}");
    }
}

#[test]
fn test_the_nodes_programs_take_what_the_chart_says() {
    use std::process::Command;
    let helm = Helm::without_server();
    let everything = everything();
    for more in [&[][..], &["--values", &everything]] {
        let rendered = objects(&helm.render(more));
        let mut seen = BTreeSet::new();
        for object in
            rendered.iter().filter(|object| ["DaemonSet", "Deployment"].contains(&object["kind"].as_str().unwrap()))
        {
            for container in object["spec"]["template"]["spec"]["containers"].as_array().unwrap() {
                let name = container["name"].as_str().unwrap();
                let program = match name {
                    "controller" => continue,
                    "csi" | "provisioner" => "stash-csi",
                    _ => "stash-fs",
                };
                let mut command = Command::new(stash_tests::mounted::sibling(program));
                command.args(container["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()));
                // What stands before it is read first: a word that is not known is told.
                let output = command.arg("--help").output().unwrap();
                assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
                seen.insert(name);
            }
        }
        assert_eq!(seen, BTreeSet::from(["csi", "daemon", "keeper", "provisioner"]));
    }
}

#[test]
fn test_only_the_keeper_is_privileged_and_the_daemon_has_no_token() {
    let rendered = objects(&Helm::without_server().render(&[]));
    let of = |name: &str| {
        let set =
            rendered.iter().find(|object| object["kind"] == "DaemonSet" && object["metadata"]["name"] == name).unwrap();
        set["spec"]["template"]["spec"].clone()
    };
    let (node, keeper) = (of("stash-fs-node"), of("stash-fs-keeper"));
    assert_eq!(
        (&node["automountServiceAccountToken"], &keeper["automountServiceAccountToken"]),
        (&false.into(), &false.into())
    );
    assert_eq!(keeper["containers"][0]["securityContext"]["privileged"], true);
    // Scratch space is the keeper's alone, and what is mounted there is seen by nobody else.
    let scratch = |spec: &Value| {
        let containers = spec["containers"].as_array().unwrap().iter();
        let mounts = containers.flat_map(|container| container["volumeMounts"].as_array().unwrap());
        mounts.filter(|mount| mount["name"] == "scratch").cloned().collect::<Vec<_>>()
    };
    assert_eq!(scratch(&keeper), [serde_json::json!({"name": "scratch", "mountPath": "/scratch"})]);
    assert_eq!(scratch(&node), Vec::<Value>::new());
    let without = objects(&Helm::without_server().render(&["--set", "node.scratch.enabled=false"]));
    assert!(!without.iter().any(|object| object.to_string().contains("/scratch")));
    for container in node["containers"].as_array().unwrap() {
        let security = &container["securityContext"];
        assert!(security["privileged"].is_null() && security["readOnlyRootFilesystem"] == true, "{security}");
        assert_eq!(security["capabilities"], serde_json::json!({"drop": ["ALL"]}));
        let mounts =
            |volume: &str| container["volumeMounts"].as_array().unwrap().iter().any(|mount| mount["name"] == volume);
        let is_driver = container["name"] == "csi";
        // The driver has the token and kubelet's folder, the daemon the keeper's socket and the cache.
        assert_eq!(
            [mounts("token"), mounts("kubelet"), mounts("keeper"), mounts("cache")],
            [is_driver, is_driver, !is_driver, !is_driver]
        );
    }
}

#[test]
fn test_wrong_values_are_refused_by_name() {
    let helm = Helm::without_server();
    for (value, named) in [
        ("replicas=2", "replicas"),
        ("controller.replica=2", "replica"),
        ("controller.replicas=two", "controller.replicas"),
        ("controller.jitter=soon", "controller.jitter"),
        ("controller.snapshotSync=often", "controller.snapshotSync"),
        ("controller.concurrency=0", "controller.concurrency"),
        ("controller.maxRunningSessions=0", "controller.maxRunningSessions"),
        ("controller.env[0].value=x", "controller.env.0"),
        ("image.pullPolicy=Sometimes", "image.pullPolicy"),
        ("image.registry=registry.example.org/", "image.registry"),
        ("image.controller.tag=a b", "image.controller.tag"),
        ("image.jobs.digest=sha256:0", "image.jobs.digest"),
        ("node.kubeletDir=kubelet", "node.kubeletDir"),
        ("node.daemon.memory=much", "node.daemon.memory"),
        ("node.keeper.maxPause=long", "node.keeper.maxPause"),
        ("node.maxVolumes=0", "node.maxVolumes"),
        ("node.scratch.dir=scratch", "node.scratch.dir"),
        ("node.scratch.maxSize=much", "node.scratch.maxSize"),
        ("serviceAccount.create=false", "serviceAccount.name"),
        ("crds.exclude[0]=pods", "crds.exclude.0"),
        ("networkPolicy.apiServer.ports[0]=99999", "networkPolicy.apiServer.ports.0"),
        ("metrics.rules.backupMaxAgeSeconds=1", "metrics.rules.backupMaxAgeSeconds"),
        ("metrics.serviceMonitor.interval=30", "metrics.serviceMonitor.interval"),
        ("metrics.service.enabled=false,metrics.serviceMonitor.enabled=true", "metrics.service.enabled"),
    ] {
        let chart = chart();
        let refused = helm.release("template", &chart, &["--set", value]);
        let refused = refused.err().unwrap_or_else(|| panic!("{value} is accepted"));
        let said = refused.replace('/', ".");
        assert!(said.contains(named), "{value}: {refused}");
    }
}

#[test]
fn test_every_value_is_in_the_schema_and_explained() {
    let values: Value = serde_saphyr::from_str(&fs::read_to_string(chart().join("values.yaml")).unwrap()).unwrap();
    let schema: Value = serde_json::from_str(&fs::read_to_string(chart().join("values.schema.json")).unwrap()).unwrap();
    same_keys(&values, &schema, &schema, "");
}

fn same_keys(values: &Value, schema: &Value, root: &Value, path: &str) {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => &root["definitions"][reference.rsplit('/').next().unwrap()],
        None => schema,
    };
    let Some(properties) = schema["properties"].as_object() else { return };
    let Some(values) = values.as_object() else { return };
    assert_eq!(schema["additionalProperties"], false, "{path} takes anything");
    let listed = |name: &&String| name.as_str() != "global";
    let known: BTreeSet<&String> = properties.keys().filter(listed).collect();
    // What Kubernetes defines is not repeated.
    if !path.ends_with(".resources") {
        assert_eq!(known, values.keys().collect(), "{path}");
    }
    for (name, value) in values {
        same_keys(value, &properties[name], root, &format!("{path}.{name}"));
    }
}

#[test]
fn test_where_there_are_no_policies_the_account_makes_no_role_beyond_its_own_rights() {
    let helm = Helm::without_server();
    let without = helm.release("template", &chart(), &[]).unwrap();
    for (rendered, bounded) in
        [(helm.render(&[]), true), (helm.render(&["--set", "admissionPolicy.enabled=false"]), false), (without, false)]
    {
        let rendered = objects(&rendered);
        assert_eq!(kinds(&rendered).contains_key("ValidatingAdmissionPolicy"), bounded);
        let is_ours =
            |object: &&Value| object["kind"] == "ClusterRole" && object["metadata"]["name"] == "stash-fs-controller";
        let role = rendered.iter().find(is_ours).unwrap();
        let rules = role["rules"].as_array().unwrap();
        let has = |rule: &Value, key: &str, word: &str| rule[key].as_array().unwrap().iter().any(|one| one == word);
        let may = |resource: &str, verb: &str| {
            rules.iter().any(|rule| has(rule, "resources", resource) && has(rule, "verbs", verb))
        };
        let seen = ["get", "list", "watch"].map(|verb| may("secrets", verb));
        assert_eq!((may("roles", "escalate"), seen), (bounded, [!bounded; 3]));
        assert!(may("secrets", "create") && may("roles", "patch") && may("rolebindings", "patch"));
    }
}

#[test]
fn test_claims_are_populated_under_policies_alone() {
    let helm = Helm::without_server();
    let without = helm.release("template", &chart(), &[]).unwrap();
    let known = "--api-versions=populator.storage.k8s.io/v1beta1/VolumePopulator";
    for (rendered, populates, is_told) in [
        (helm.render(&[]), true, false),
        (helm.render(&[known]), true, true),
        (helm.render(&[known, "--set", "node.populate.enabled=false"]), false, false),
        (helm.render(&[known, "--set", "admissionPolicy.enabled=false"]), false, false),
        (helm.render(&[known, "--set", "node.enabled=false"]), false, false),
        (without, false, false),
    ] {
        let rendered = objects(&rendered);
        let role = rendered
            .iter()
            .find(|object| object["kind"] == "ClusterRole" && object["metadata"]["name"] == "stash-fs-provisioner");
        let may = role.is_some_and(|role| role["rules"].to_string().contains("jobs"));
        let deployment = rendered
            .iter()
            .find(|object| object["kind"] == "Deployment" && object["metadata"]["name"] == "stash-fs-provisioner");
        let does = deployment.is_some_and(|deployment| deployment.to_string().contains("--image=stash-fs:"));
        let policy = |object: &&Value| object["metadata"]["name"] == "stash-fs-provisioner-jobs";
        assert_eq!(
            (may, does, rendered.iter().filter(policy).count()),
            (populates, populates, usize::from(populates) * 2)
        );
        let populator = rendered.iter().find(|object| object["kind"] == "VolumePopulator");
        assert_eq!(populator.is_some(), is_told);
        if let Some(populator) = populator {
            let kind = serde_json::json!({"group": "repositories.stash.appscode.com", "kind": "Snapshot"});
            assert_eq!(populator["sourceKind"], kind);
        }
    }
}

#[test]
fn test_definitions_can_be_left_out() {
    let helm = Helm::without_server();
    let count = |more: &[&str]| kinds(&objects(&helm.render(more))).get("CustomResourceDefinition").copied();
    assert_eq!(count(&[]), Some(11));
    assert_eq!(count(&["--set", &format!("crds.exclude={{{APP_BINDING}}}")]), Some(10));
    assert_eq!(count(&["--set", "crds.install=false"]), None);
}

#[test]
fn test_the_documents_explain_each_alert_and_each_condition() {
    let document = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let rendered = objects(&Helm::without_server().render(&["--values", &everything()]));
    let rules = rendered.iter().find(|object| object["kind"] == "PrometheusRule").unwrap();
    let rules = rules["spec"]["groups"][0]["rules"].as_array().unwrap();
    let alerts: BTreeSet<&str> = rules.iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    let explained =
        |line: &str| line.strip_prefix("| `Stash").and_then(|rest| rest.split('`').next().map(str::to_owned));
    // A condition may be called so as well.
    let (_, section) = document.split_once("\n## Alerts\n").unwrap();
    let explained: BTreeSet<String> =
        section.lines().filter_map(explained).map(|rest| format!("Stash{rest}")).collect();
    assert_eq!(explained.iter().map(String::as_str).collect::<BTreeSet<_>>(), alerts);

    // What is asked for is served.
    let served = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let dashboard = fs::read_to_string(chart().join("files/dashboards/stash-fs.json")).unwrap();
    let asked = rules.iter().map(|rule| rule["expr"].as_str().unwrap()).collect::<String>() + &dashboard;
    for figure in asked.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        let Some(name) = figure.strip_prefix("stash_appscode_com_") else { continue };
        let of_host = name.strip_prefix("backupsession_host").unwrap_or(name);
        let known = served.contains(&format!("`{name}`")) || served.contains(&format!("`...{of_host}`"));
        assert!(known, "nobody serves {figure}");
    }

    let mut code = String::new();
    let mut folders = vec![root().join("controller/src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                code.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let constants = fs::read_to_string(root().join("crds/src/conditions.rs")).unwrap();
    let mut seen = 0;
    for line in constants.lines().filter_map(|line| line.strip_prefix("pub const ")) {
        let Some((name, value)) = line.split_once(": &str = \"") else { continue };
        let value = value.trim_end_matches("\";");
        let used = code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == name);
        if used && !["TRUE", "FALSE", "UNKNOWN"].contains(&name) {
            assert!(document.contains(&format!("`{value}`")), "docs/operations.md does not say what {value} means");
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}
