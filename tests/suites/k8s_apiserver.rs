//! An API server alone, as the tests of schemas and reconcilers use it.

use serde_json::{Value, json};
use stash_tests::cluster::ApiServer;

#[test]
fn test_api_server_keeps_objects_and_judges_their_fields() {
    let server = ApiServer::start();
    let version: Value = serde_json::from_str(&server.kubectl().run(&["get", "--raw", "/version"])).unwrap();
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("34")));

    let namespace = server.namespace();
    namespace.apply(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "one" }, "data": { "key": "value" }
    }));
    assert_eq!(namespace.get("configmap/one")["data"]["key"], "value");
    // A pod is kept too, though nobody will run it.
    namespace.apply(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "two" },
        "spec": { "containers": [{ "name": "c", "image": "localhost/none:1" }] }
    }));
    assert_eq!(namespace.get("pod/two")["status"]["phase"], "Pending");

    let wrong = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "three" }, "dada": {} });
    let error = server.kubectl().try_apply(&wrong).unwrap_err();
    assert!(error.contains("unknown field \"dada\""), "{error}");
}
