//! The claims of `volumeClaimTemplates`: how they are called, and what is mounted where. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use stash_crds::RestoreSession;
use stash_crds::target::RestoreTarget;
use stash_crds::volumes::ClaimTemplate;

use crate::jobs::{Mount, Source};

/// Annotation of claims: the RestoreSession that they were made by, as `namespace/name/uid`.
pub const MADE_BY_ANNOTATION: &str = "stash.appscode.com/restored-by";
/// What stands for the number of a replica.
pub const ORDINAL: &str = "${POD_ORDINAL}";

/// Returns what claims made by `session` are annotated with.
pub fn made_by(session: &RestoreSession) -> String {
    let uid = session.metadata.uid.as_deref().unwrap_or_default();
    format!("{}/{}/{uid}", session.namespace().unwrap_or_default(), session.name_any())
}

/// Makes the claims of a host; `ordinal` is its number, if there are replicas.
///
/// # Errors
///
/// A sentence for the user: a template is none.
pub fn claims(session: &RestoreSession, ordinal: Option<usize>) -> Result<Vec<PersistentVolumeClaim>, String> {
    let templates = session.spec.target.as_ref().map(|target| target.volume_claim_templates.as_slice());
    templates.unwrap_or_default().iter().map(|template| claim(session, template, ordinal)).collect()
}

fn claim(
    session: &RestoreSession,
    template: &ClaimTemplate,
    ordinal: Option<usize>,
) -> Result<PersistentVolumeClaim, String> {
    let template = filled(template, ordinal)?;
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations;
    annotations.insert(MADE_BY_ANNOTATION.to_owned(), made_by(session));
    Ok(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: meta.name,
            namespace: session.namespace(),
            labels: (!meta.labels.is_empty()).then_some(meta.labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    })
}

/// Puts the number in wherever it stands in a template, as Stash does.
fn filled(template: &ClaimTemplate, ordinal: Option<usize>) -> Result<ClaimTemplate, String> {
    let bad = |error: serde_json::Error| format!("spec.target.volumeClaimTemplates: {error}");
    let text = serde_json::to_string(template).map_err(bad)?;
    serde_json::from_str(&text.replace(ORDINAL, &ordinal.unwrap_or(0).to_string())).map_err(bad)
}

/// Returns the name of the volume that a claim is: the claim's, without the number at its end.
fn volume(claim: &str, ordinal: Option<usize>) -> &str {
    claim.strip_suffix(&format!("-{}", ordinal.unwrap_or(0))).unwrap_or(claim)
}

/// Returns what the Job of a host mounts of its claims.
///
/// # Errors
///
/// A sentence for the user: a mount is of no template.
pub fn mounts(
    target: &RestoreTarget,
    claims: &[PersistentVolumeClaim],
    ordinal: Option<usize>,
) -> Result<Vec<Mount>, String> {
    let names: Vec<String> = claims.iter().map(|claim| claim.name_any()).collect();
    let by_volume: BTreeMap<&str, &String> = names.iter().map(|name| (volume(name, ordinal), name)).collect();
    let find = |wanted: &str| by_volume.get(wanted).copied().or_else(|| names.iter().find(|name| *name == wanted));
    let mount = |wanted: &k8s_openapi::api::core::v1::VolumeMount| {
        let claim = find(&wanted.name).ok_or_else(|| {
            let known: Vec<&str> = by_volume.keys().copied().collect();
            format!(
                "spec.target.volumeMounts: no volumeClaimTemplate is called {}; there are {}",
                wanted.name,
                known.join(", ")
            )
        })?;
        let source = Source::Claim(claim.clone());
        Ok(Mount { source, path: wanted.mount_path.clone(), sub_path: wanted.sub_path.clone() })
    };
    target.volume_mounts.iter().map(mount).collect()
}

/// Returns what is wrong with templates, a sentence each.
pub fn problems(session: &RestoreSession) -> Vec<String> {
    let place = "spec.target.volumeClaimTemplates";
    let Some(target) = session.spec.target.as_ref() else { return Vec::new() };
    let own = session.namespace().unwrap_or_default();
    let mut problems = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    if !target.volume_claim_templates.is_empty() && target.replicas == Some(0) {
        problems.push("spec.target.replicas is 0, so nothing would be restored".to_owned());
    }
    for (index, template) in target.volume_claim_templates.iter().enumerate() {
        let meta = template.metadata.clone().unwrap_or_default();
        let name = meta.name.unwrap_or_default();
        if name.is_empty() {
            problems.push(format!("{place}[{index}]: a claim needs a metadata.name, by which it is found again"));
        } else if !seen.insert(name.clone()) {
            problems.push(format!("{place}[{index}]: {name} is there twice"));
        } else if target.replicas.unwrap_or(1) > 1 && !name.contains(ORDINAL) {
            problems.push(format!("{place}[{index}]: with replicas the name {name} has to hold {ORDINAL}"));
        }
        if meta.namespace.is_some_and(|namespace| !namespace.is_empty() && namespace != own) {
            problems.push(format!("{place}[{index}]: the namespace must be {own}, that of the RestoreSession"));
        }
        let mode = template.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
        if mode == Some("Block") {
            problems.push(format!("{place}[{index}]: files cannot be restored into a volume of blocks"));
        }
        if template.spec.is_none() {
            problems.push(format!("{place}[{index}]: a claim needs a spec"));
        }
    }
    problems
}

/// Whether a claim was made by `session`.
pub fn is_made_by(claim: &PersistentVolumeClaim, session: &RestoreSession) -> bool {
    claim.annotations().get(MADE_BY_ANNOTATION) == Some(&made_by(session))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn session(target: Value) -> RestoreSession {
        serde_json::from_value(
            json!({"metadata": {"name": "r", "namespace": "shop", "uid": "u"}, "spec": {"target": target}}),
        )
        .unwrap()
    }

    fn template(name: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {"app": format!("db-{ORDINAL}")}},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    }

    #[test]
    fn test_claims_have_their_number_everywhere() {
        let target = json!({"replicas": 2, "volumeClaimTemplates": [template("data-db-${POD_ORDINAL}"), template("logs-db-${POD_ORDINAL}")],
            "volumeMounts": [{"name": "data-db", "mountPath": "/data"}, {"name": "logs-db", "mountPath": "/logs", "subPath": "x"}]});
        let session = session(target);
        let claims = claims(&session, Some(1)).unwrap();
        let made = serde_json::to_value(&claims[0]).unwrap();
        assert_eq!(made["metadata"]["name"], "data-db-1");
        assert_eq!(made["metadata"]["labels"], json!({"app": "db-1"}));
        assert_eq!(made["metadata"]["annotations"], json!({MADE_BY_ANNOTATION: "shop/r/u"}));
        assert_eq!(made["spec"]["accessModes"], json!(["ReadWriteOnce"]));
        assert!(made["metadata"]["ownerReferences"].is_null());
        assert!(is_made_by(&claims[0], &session));
        let mounts = mounts(session.spec.target.as_ref().unwrap(), &claims, Some(1)).unwrap();
        let claim = |name: &str| Source::Claim(name.to_owned());
        assert_eq!(mounts[0], Mount { source: claim("data-db-1"), path: "/data".to_owned(), sub_path: None });
        assert_eq!((&mounts[1].source, mounts[1].sub_path.as_deref()), (&claim("logs-db-1"), Some("x")));
    }

    #[test]
    fn test_a_claim_without_replicas_keeps_its_name() {
        let target = json!({"volumeClaimTemplates": [template("data-0")], "volumeMounts": [{"name": "data-0", "mountPath": "/data"}]});
        let session = session(target);
        let claims = claims(&session, None).unwrap();
        assert_eq!(
            mounts(session.spec.target.as_ref().unwrap(), &claims, None).unwrap()[0].source,
            Source::Claim("data-0".to_owned())
        );
        let other = serde_json::from_value(json!({"volumeMounts": [{"name": "x", "mountPath": "/x"}]})).unwrap();
        assert!(mounts(&other, &claims, None).unwrap_err().contains("called x; there are data"));
    }

    #[test]
    fn test_templates_that_cannot_be_made_are_named() {
        for (target, expected) in [
            (json!({"volumeClaimTemplates": [template("a")]}), ""),
            (json!({"replicas": 3, "volumeClaimTemplates": [template("a-${POD_ORDINAL}")]}), ""),
            (json!({"replicas": 3, "volumeClaimTemplates": [template("a")]}), "[0]: with replicas the name a"),
            (json!({"replicas": 0, "volumeClaimTemplates": [template("a")]}), "spec.target.replicas is 0"),
            (json!({"volumeClaimTemplates": [template("a"), template("a")]}), "[1]: a is there twice"),
            (json!({"volumeClaimTemplates": [{"spec": {}}]}), "[0]: a claim needs a metadata.name"),
            (json!({"volumeClaimTemplates": [{"metadata": {"name": "a"}}]}), "[0]: a claim needs a spec"),
            (
                json!({"volumeClaimTemplates": [{"metadata": {"name": "a", "namespace": "b"}, "spec": {}}]}),
                "[0]: the namespace must be shop",
            ),
            (
                json!({"volumeClaimTemplates": [{"metadata": {"name": "a"}, "spec": {"volumeMode": "Block"}}]}),
                "[0]: files cannot",
            ),
        ] {
            let found = problems(&session(target.clone()));
            assert_eq!(found.len(), usize::from(!expected.is_empty()), "{target}: {found:?}");
            assert!(found.iter().all(|problem| problem.contains(expected)), "{target}: {found:?}");
        }
    }
}
