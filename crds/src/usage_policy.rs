//! Which namespaces may use a Repository, as its `usagePolicy` says. Pure; whoever uses a Repository asks here, each time.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::Repository;
use crate::repository::AllowedFrom;

/// Whether `namespace`, which has `labels`, may use `repository`.
pub fn may_use(repository: &Repository, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
    let own = repository.metadata.namespace.as_deref() == Some(namespace);
    let Some(policy) = repository.spec.usage_policy.as_ref() else { return own };
    // A policy that names nobody lets nobody in.
    let Some(allowed) = policy.allowed_namespaces.as_ref() else { return false };
    match &allowed.from {
        AllowedFrom::All => true,
        AllowedFrom::Same => own,
        AllowedFrom::Selector => allowed.selector.as_ref().is_some_and(|selector| selects(selector, labels)),
        AllowedFrom::Other(_) => false,
    }
}

/// Whether a selector matches. One that cannot be read matches nothing, an empty one everything.
fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|expression| {
            let values = expression.values.as_deref().unwrap_or_default();
            let value = labels.get(&expression.key);
            match expression.operator.as_str() {
                "In" => !values.is_empty() && value.is_some_and(|value| values.contains(value)),
                "NotIn" => !values.is_empty() && value.is_none_or(|value| !values.contains(value)),
                "Exists" => values.is_empty() && value.is_some(),
                "DoesNotExist" => values.is_empty() && value.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn test_who_may_use_a_repository() {
        let selector = |selector: Value| json!({"allowedNamespaces": {"from": "Selector", "selector": selector}});
        let expression = |operator: &str, values: Value| {
            selector(json!({"matchExpressions": [{"key": "team", "operator": operator, "values": values}]}))
        };
        for (policy, own, other) in [
            (Value::Null, true, false),
            (json!({}), false, false),
            (json!({"allowedNamespaces": {}}), true, false),
            (json!({"allowedNamespaces": {"from": "Same"}}), true, false),
            (json!({"allowedNamespaces": {"from": "All"}}), true, true),
            (json!({"allowedNamespaces": {"from": "Somebody"}}), false, false),
            (json!({"allowedNamespaces": {"from": "Selector"}}), false, false),
            (selector(json!({})), true, true),
            (selector(json!({"matchLabels": {"team": "a"}})), false, true),
            (selector(json!({"matchLabels": {"team": "b"}})), false, false),
            (expression("In", json!(["a", "b"])), false, true),
            (expression("In", json!([])), false, false),
            (expression("NotIn", json!(["a"])), true, false),
            (expression("Exists", json!([])), false, true),
            (expression("DoesNotExist", json!([])), true, false),
            (expression("Near", json!(["a"])), false, false),
        ] {
            let repository: Repository = serde_json::from_value(json!({
                "apiVersion": "stash.appscode.com/v1alpha1", "kind": "Repository", "metadata": {"name": "r", "namespace": "storage"},
                "spec": {"backend": {}, "usagePolicy": policy}
            }))
            .unwrap();
            let labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
            assert_eq!(may_use(&repository, "storage", &BTreeMap::new()), own, "{policy}");
            assert_eq!(may_use(&repository, "shop", &labels), other, "{policy}");
        }
    }
}
