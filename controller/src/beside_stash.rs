//! Stash's own operator and this controller must not act on the same objects: while it is installed, nothing is done here.

use std::time::Duration;

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use tokio::time::{MissedTickBehavior, interval};

/// What Stash's operator registers at the API server, as its own server: served by a Service, not by definitions.
const API_SERVICES: [&str; 3] = [
    "v1alpha1.admission.stash.appscode.com",
    "v1beta1.admission.stash.appscode.com",
    "v1alpha1.repositories.stash.appscode.com",
];

/// How often is looked again while it is there.
const EVERY: Duration = Duration::from_secs(15);
/// How often is looked whether it was installed meanwhile.
const SELDOM: Duration = Duration::from_secs(60);

/// Returns the APIServices of Stash's operator that are installed.
///
/// # Errors
///
/// The API server did not tell.
pub async fn found(client: &Client) -> Result<Vec<&'static str>, kube::Error> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("apiregistration.k8s.io", "v1", "APIService"));
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let mut found = Vec::new();
    for name in API_SERVICES {
        if api.get_opt(name).await?.is_some_and(|service| is_served(&service)) {
            found.push(name);
        }
    }
    Ok(found)
}

/// Whether an APIService is served by a program. Of a definition's group the API server makes one without.
fn is_served(service: &DynamicObject) -> bool {
    service.data.pointer("/spec/service").is_some_and(|service| service.is_object())
}

/// Waits until Stash's operator is not installed, and says so while it is.
pub async fn wait_until_gone(client: &Client) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match found(client).await {
            Ok(found) if found.is_empty() => return,
            Ok(found) => tracing::warn!(
                api_services = found.join(", "),
                "Stash's operator is installed, and two must not act on the same objects: nothing is done; see docs/migration.md"
            ),
            Err(error) => tracing::warn!(%error, "whether Stash's operator is installed could not be found out"),
        }
    }
}

/// Returns when Stash's operator is installed.
pub async fn wait_until_there(client: &Client) {
    let mut ticks = interval(SELDOM);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if found(client).await.is_ok_and(|found| !found.is_empty()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn test_an_api_service_of_a_definition_is_not_stash() {
        let service = |spec: serde_json::Value| -> DynamicObject {
            serde_json::from_value(json!({"metadata": {"name": "x"}, "spec": spec})).unwrap()
        };
        assert!(is_served(&service(json!({"service": {"name": "stash", "namespace": "stash"}}))));
        assert!(!is_served(&service(json!({"group": "repositories.stash.appscode.com"}))));
        assert!(!is_served(&service(json!({"service": null}))));
    }
}
