//! Which rule holds for a host, and what it names. Pure.

use stash_crds::RestoreSession;
use stash_crds::target::Rule;
use stash_proto::job::RestoreSource;

/// Returns the rules of a session. The deprecated `spec.rules` win, as Stash puts them over the others.
pub fn rules(session: &RestoreSession) -> &[Rule] {
    let spec = &session.spec;
    let of_target = spec.target.as_ref().map(|target| target.rules.as_slice()).unwrap_or_default();
    if spec.rules.is_empty() { of_target } else { spec.rules.as_slice() }
}

/// Returns the field in which they stand.
pub fn field(session: &RestoreSession) -> &'static str {
    if session.spec.rules.is_empty() { "spec.target.rules" } else { "spec.rules" }
}

/// Returns the rule of a host: one that names it wherever it stands, else the last that names none.
pub fn of<'a>(session: &'a RestoreSession, host: &str) -> Option<&'a Rule> {
    let rules = rules(session);
    let named = rules.iter().find(|rule| rule.target_hosts.iter().any(|target| target == host));
    named.or_else(|| rules.iter().rev().find(|rule| rule.target_hosts.is_empty()))
}

/// Returns the snapshots that a rule names for `host`.
pub fn sources(rule: &Rule, host: &str) -> Vec<RestoreSource> {
    if rule.snapshots.is_empty() {
        let source = rule.source_host.as_deref().filter(|source| !source.is_empty()).unwrap_or(host);
        let latest = |path: &String| RestoreSource::Latest { host: source.to_owned(), path: path.clone() };
        return rule.paths.iter().map(latest).collect();
    }
    rule.snapshots.iter().map(|snapshot| RestoreSource::Snapshot(snapshot.clone())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn session(spec: Value) -> RestoreSession {
        serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap()
    }

    #[test]
    fn test_a_rule_that_names_the_host_wins_and_the_last_catches_the_rest() {
        let rules = json!([
            {"paths": ["/first"]}, {"targetHosts": ["host-1", "host-2"], "sourceHost": "host-0", "paths": ["/named"]},
            {"targetHosts": [], "snapshots": ["0a1b2c3d", "latest"]}
        ]);
        let session = session(json!({"target": {"rules": rules}}));
        let latest = |host: &str, path: &str| RestoreSource::Latest { host: host.to_owned(), path: path.to_owned() };
        let snapshot = |name: &str| RestoreSource::Snapshot(name.to_owned());
        let of = |host: &str| of(&session, host).map(|rule| sources(rule, host));
        assert_eq!(of("host-1"), Some(vec![latest("host-0", "/named")]));
        assert_eq!(of("host-0"), Some(vec![snapshot("0a1b2c3d"), snapshot("latest")]));
        let rule: Rule = serde_json::from_value(json!({"sourceHost": "", "paths": ["/a", "/b"]})).unwrap();
        assert_eq!(sources(&rule, "host-3"), [latest("host-3", "/a"), latest("host-3", "/b")]);
    }

    #[test]
    fn test_deprecated_rules_stand_for_those_of_the_target() {
        let both = json!({"rules": [{"paths": ["/old"]}], "target": {"rules": [{"paths": ["/new"]}]}});
        assert_eq!((rules(&session(both.clone()))[0].paths[0].as_str(), field(&session(both))), ("/old", "spec.rules"));
        let named = session(json!({"target": {"rules": [{"targetHosts": ["a"], "paths": ["/x"]}]}}));
        assert_eq!((of(&named, "b"), field(&named)), (None, "spec.target.rules"));
        assert!(rules(&session(json!({}))).is_empty());
    }
}
