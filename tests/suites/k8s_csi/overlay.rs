//! Volumes of `mode: overlay`.

use super::*;

#[test]
fn test_an_overlay_is_the_pods_own() {
    let mut world = World::start();
    let namespace = world.server.namespace();
    world.repository(&namespace, Value::Null);
    let kubeconfig = world.account(&namespace);
    let driver = Driver::start(&world.node, &kubeconfig, &[]);
    let data = world.data();
    let usual = [("repository", "repo"), ("snapshot", "latest"), ("path", data.as_str()), ("uid", "1000")];
    let overlay = [&usual[..], &[("mode", "overlay"), ("scratchSize", "32Mi")]].concat();
    let (writer, reader) = (world.pod(&namespace, "writer", "default"), world.pod(&namespace, "reader", "default"));
    for (wrong, words) in [
        ([("mode", "ro"), ("scratchSize", "32Mi")], "it goes with mode: overlay only"),
        ([("mode", "overlay"), ("scratchSize", "much")], "the attribute scratchSize is \"much\""),
        ([("mode", "overlay"), ("scratchSize", "1Mi")], "overlay.scratch_bytes: 1048576 is less than"),
        ([("mode", "overlay"), ("scratchSize", "1Ti")], "is more than the 17179869184 that this node's keeper allows"),
    ] {
        let status = world.publish(&driver, world.request(&writer, &[&usual[..], &wrong].concat())).unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains(words), "{status:?}");
    }
    assert!(world.node.mounts().is_empty());

    let request = world.request(&writer, &overlay);
    let target = PathBuf::from(&request.target_path);
    world.publish(&driver, request.clone()).unwrap();
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "second");
    fs::write(target.join("file"), "third").unwrap();
    // Who only reads gets the snapshot, and not what another one wrote.
    let reads = NodePublishVolumeRequest { readonly: true, ..world.request(&reader, &overlay) };
    let shown = PathBuf::from(&reads.target_path);
    world.publish(&driver, reads.clone()).unwrap();
    assert_eq!(fs::read_to_string(shown.join("file")).unwrap(), "second");
    assert_eq!(fs::write(shown.join("new"), "x").unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(world.node.mounts().len(), 2);

    // Another driver and another daemon change nothing.
    driver.kill();
    world.node.restart_daemon();
    let driver = Driver::start(&world.node, &kubeconfig, &[]);
    wait_for("the volume to be published again", || world.publish(&driver, request.clone()).ok());
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "third");
    let larger = world.request(&writer, &[&usual[..], &[("mode", "overlay"), ("scratchSize", "33Mi")]].concat());
    assert_eq!(world.publish(&driver, larger).unwrap_err().code(), Code::AlreadyExists);

    for published in [&request, &reads] {
        world.unpublish(&driver, published);
        world.unpublish(&driver, published);
    }
    assert!(!target.exists() && world.node.mounts().is_empty());
    wait_for("no scratch space is left", || {
        fs::read_dir(world.node.path("scratch")).unwrap().next().is_none().then_some(())
    });
}
