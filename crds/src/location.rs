//! The address of a repository, as restic writes it. Pure.

use std::collections::BTreeMap;

use crate::Backend;
use crate::access::{BackendProblem, provider};

/// Returns the address of the repository of `backend`, without credentials.
///
/// # Errors
///
/// There is not exactly one backend.
pub fn location(backend: &Backend) -> Result<String, BackendProblem> {
    provider(backend)?;
    let prefix = |prefix: &Option<String>| clean(prefix.as_deref().unwrap_or_default());
    let bucket = |scheme: &str, name: &str, folder: &Option<String>| format!("{scheme}:{name}:/{}", prefix(folder));
    let found = if let Some(local) = &backend.local {
        local.mount_path.clone()
    } else if let Some(s3) = &backend.s3 {
        let parts = [s3.endpoint.trim_end_matches('/').to_owned(), clean(&s3.bucket), prefix(&s3.prefix)];
        format!("s3:{}", parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"))
    } else if let Some(gcs) = &backend.gcs {
        bucket("gs", &gcs.bucket, &gcs.prefix)
    } else if let Some(azure) = &backend.azure {
        bucket("azure", &azure.container, &azure.prefix)
    } else if let Some(swift) = &backend.swift {
        bucket("swift", &swift.container, &swift.prefix)
    } else if let Some(b2) = &backend.b2 {
        bucket("b2", &b2.bucket, &b2.prefix)
    } else {
        let url = backend.rest.as_ref().map(|rest| rest.url.as_str()).unwrap_or_default();
        format!("rest:{url}")
    };
    Ok(found)
}

/// How a store is reached, but for its address and credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Options of restic, as `-o` takes them.
    pub options: BTreeMap<String, String>,
    /// Variables of restic's environment.
    pub environment: BTreeMap<String, String>,
    /// Whether the server's certificate is taken unseen.
    pub insecure_tls: bool,
}

/// Returns how the store of `backend` is reached.
pub fn settings(backend: &Backend) -> Settings {
    let connections = [
        ("gs.connections", backend.gcs.as_ref().and_then(|gcs| gcs.max_connections)),
        ("azure.connections", backend.azure.as_ref().and_then(|azure| azure.max_connections)),
        ("b2.connections", backend.b2.as_ref().and_then(|b2| b2.max_connections)),
    ];
    let options = connections.into_iter().filter_map(|(option, number)| Some((option, number.filter(|n| *n > 0)?)));
    let region = backend.s3.as_ref().and_then(|s3| s3.region.clone()).filter(|region| !region.is_empty());
    let region = region.map(|region| ("AWS_DEFAULT_REGION".to_owned(), region));
    Settings {
        options: options.map(|(option, number)| (option.to_owned(), number.to_string())).collect(),
        environment: region.into_iter().collect(),
        insecure_tls: backend.s3.as_ref().is_some_and(|s3| s3.insecure_tls),
    }
}

/// Returns the bucket and the prefix within it, as Stash's figures name them. Of a server or a volume there is no bucket.
pub fn place(backend: &Backend) -> (String, String) {
    let (bucket, prefix) = if let Some(s3) = &backend.s3 {
        (&s3.bucket, &s3.prefix)
    } else if let Some(gcs) = &backend.gcs {
        (&gcs.bucket, &gcs.prefix)
    } else if let Some(azure) = &backend.azure {
        (&azure.container, &azure.prefix)
    } else if let Some(swift) = &backend.swift {
        (&swift.container, &swift.prefix)
    } else if let Some(b2) = &backend.b2 {
        (&b2.bucket, &b2.prefix)
    } else {
        return (String::new(), String::new());
    };
    (bucket.clone(), clean(prefix.as_deref().unwrap_or_default()))
}

/// Joins the parts of a path as Go's `path.Join` does, without a slash at its ends.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn test_addresses_are_those_of_stash() {
        for (backend, expected) in [
            (json!({"s3": {"endpoint": "s3.amazonaws.com", "bucket": "b"}}), "s3:s3.amazonaws.com/b"),
            (
                json!({"s3": {"endpoint": "http://minio:9000/", "bucket": "b", "prefix": "/a//b/"}}),
                "s3:http://minio:9000/b/a/b",
            ),
            (json!({"gcs": {"bucket": "b", "prefix": "/demo"}}), "gs:b:/demo"),
            (json!({"azure": {"container": "c"}}), "azure:c:/"),
            (json!({"swift": {"container": "c", "prefix": "a/../b"}}), "swift:c:/b"),
            (json!({"b2": {"bucket": "b", "prefix": "x"}}), "b2:b:/x"),
            (json!({"rest": {"url": "https://host:8000/path"}}), "rest:https://host:8000/path"),
            (json!({"local": {"mountPath": "/safe/data"}}), "/safe/data"),
        ] {
            let read: Backend = serde_json::from_value::<Backend>(backend.clone()).unwrap();
            assert_eq!(location(&read).as_deref(), Ok(expected), "{backend}");
        }
        let none: Backend = serde_json::from_value::<Backend>(Value::Object(Default::default())).unwrap();
        assert_eq!(location(&none), Err(BackendProblem::NotOne(0)));
    }
}
