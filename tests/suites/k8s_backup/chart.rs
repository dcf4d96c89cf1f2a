//! What the chart installs, in the images that users get: the controller is a pod of the cluster, with the rights, policies and limits
//! of the chart, and backs up by schedule.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use stash_tests::cluster::{Image, Namespace, wait_until};
use stash_tests::controller::IMAGE;
use stash_tests::fixture::run;
use stash_tests::mounted::{clean, sibling};
use stash_tests::servers::tool;

use super::{World, restic_restores, standalone_claim};

const CONTROLLER_IMAGE: &str = "localhost/stash-controller:test";
const CSI_IMAGE: &str = "localhost/stash-csi:test";

fn helm(world: &World, arguments: &[&str]) -> String {
    let mut command = clean(Command::new(tool("helm")));
    command.env("HOME", world.folder.path()).env("KUBECONFIG", world.kubectl().kubeconfig());
    run(command.args(arguments))
}

/// The account of the node's driver.
pub(super) const NODE_ACCOUNT: &str = "stash-fs-node";

/// Installs the chart, in a namespace of its own.
pub(super) fn install<'w>(world: &'w World, more: &[&str]) -> Namespace<'w> {
    let config = json!({"Entrypoint": ["/usr/bin/stash-controller"], "Env": ["PATH=/usr/bin"], "User": "65532:65532"});
    let image = Image::new(CONTROLLER_IMAGE, config);
    world.cluster.import(&image.file("/usr/bin/stash-controller", &sibling("stash-controller")));
    let config = json!({"Entrypoint": ["/usr/bin/stash-csi"], "Env": ["PATH=/usr/bin"]});
    world.cluster.import(&Image::new(CSI_IMAGE, config).file("/usr/bin/stash-csi", &sibling("stash-csi")));
    let release = world.cluster.namespace();
    let chart = chart();
    let values = [
        // Other suites of this cluster bring the definitions.
        "crds.install=false",
        "image.registry=localhost",
        "image.controller.tag=test",
        "image.jobs.tag=test",
        "image.keeper.tag=test",
        "image.csi.tag=test",
        "controller.jitter=0s",
        "node.daemon.deadline=8s",
    ];
    let mut arguments = vec!["install", "stash-fs", &chart, "--namespace", release.name(), "--wait", "--timeout=5m"];
    values.iter().chain(more).for_each(|value| arguments.extend(["--set", value]));
    helm(world, &arguments);
    release
}

/// Has all images replaced by others. The keeper's pods are for others to delete.
pub(super) fn upgrade(world: &World, release: &Namespace<'_>) {
    let chart = chart();
    let mut arguments =
        vec!["upgrade", "stash-fs", &chart, "--namespace", release.name(), "--reuse-values", "--wait", "--timeout=5m"];
    let mut values = Vec::new();
    for image in [CONTROLLER_IMAGE, CSI_IMAGE, IMAGE] {
        let next = image.replace(":test", ":next");
        run(world.cluster.on_node("ctr").args(["-n", "k8s.io", "images", "tag", "--force", image, &next]));
    }
    values.extend(["controller", "jobs", "keeper", "csi"].map(|image| format!("image.{image}.tag=next")));
    values.iter().for_each(|value| arguments.extend(["--set", value]));
    helm(world, &arguments);
    release.run(&["rollout", "status", "daemonset/stash-fs-node", "--timeout=300s"]);
}

fn chart() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("deploy/charts/stash-fs").display().to_string()
}

pub(super) fn uninstall(world: &World, release: &Namespace<'_>) {
    helm(world, &["uninstall", "stash-fs", "--namespace", release.name(), "--wait", "--timeout=5m"]);
}

pub(super) fn test_chart(world: &World) {
    let release = install(world, &[]);
    let shop = world.shop();
    let case = standalone_claim(&shop);
    let every_minute = json!({"schedule": "* * * * *"});
    shop.configure_at(world.minio.address(), case.name, &case.target, &every_minute);
    let session = wait_until("the session that is due", || {
        let sessions = shop.namespace.get("backupsessions")["items"].as_array().unwrap().clone();
        Some(sessions.first()?["metadata"]["name"].as_str().unwrap().to_owned())
    });
    shop.namespace.run(&[
        "patch",
        "backupconfiguration",
        case.name,
        "--type=merge",
        "-p",
        r#"{"spec":{"paused":true}}"#,
    ]);
    let done = shop.succeeded(&session);
    super::a_session_says_what_was_done(&done, &case);
    restic_restores(&shop, &case);
    shop.mirrored(case.name, 1);

    super::copies::test_copies(&shop, &case, &release);
    super::at_start::test_at_start(&shop, &release);
    super::volumes::test_volumes(&shop, &release);
    super::populated::test_populated(&shop);
    super::stores::test_stores_under_a_volume(&shop);

    let pods = release.get("pods")["items"].as_array().unwrap().clone();
    let controllers: Vec<_> = pods
        .iter()
        .filter(|pod| pod["spec"]["containers"][0]["image"].as_str().unwrap().contains("/stash-controller:"))
        .collect();
    assert_eq!(controllers.len(), 1, "{controllers:?}");
    assert_eq!(controllers[0]["status"]["containerStatuses"][0]["restartCount"], 0);
    let provisioner = release.run(&["logs", "deployment/stash-fs-provisioner"]);
    assert!(!provisioner.contains("forbidden") && !provisioner.contains("panic"), "{provisioner}");
    let log = release.run(&["logs", controllers[0]["metadata"]["name"].as_str().unwrap()]);
    assert!(!log.contains("forbidden") && !log.contains("denied") && !log.contains("panic"), "{log}");
    uninstall(world, &release);
    assert_eq!(shop.succeeded(&session)["metadata"]["name"], session, "what users made stays");
}
