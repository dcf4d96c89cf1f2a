//! From restic's address, environment and options to the requests that a server sees: method, host, path, range, and by
//! what it is authorized. The services themselves are not at hand; the recorder answers the least that they would.

use std::collections::BTreeMap;
use std::time::Duration;

use stash_repo::Id;
use stash_repo::backend::{BackendErrorKind, ConnectOptions, FileKind, ListEntry, Location, connect};
use stash_tests::servers::{Answer, Recorded, Recorder};

/// The one file in the store: a pack of 1,000 bytes below `pre/fix`.
fn pack() -> Id {
    Id::new([0xab; 32])
}

fn pack_path() -> String {
    format!("pre/fix/data/ab/{}", pack())
}

/// Answers as all five services do, told apart by their paths.
fn answer(request: &Recorded) -> Answer {
    let name = pack_path();
    let here = format!("http://{}", request.host);
    let json = |text: String| Answer::new(200, text).header("content-type", "application/json");
    let path = request.path.as_str();
    let lists_packs = percent_decode(path).contains("prefix=pre/fix/data/");
    if request.header("range").is_some() {
        return Answer::new(206, "0123456789").header("content-range", "bytes 20-29/1000");
    }
    if path.contains("b2_authorize_account") {
        return json(format!(
            r#"{{"accountId":"acc","authorizationToken":"b2-token","apiUrl":"{here}","downloadUrl":"{here}","allowed":{{}}}}"#
        ));
    }
    if path.contains("b2_list_buckets") {
        return json(
            r#"{"buckets":[{"bucketId":"other-id","bucketName":"other"},{"bucketId":"the-id","bucketName":"bucket"}]}"#
                .into(),
        );
    }
    if path.contains("b2_list_file_names") {
        let file = format!(
            r#"{{"fileId":"f","contentLength":1000,"contentMd5":null,"contentType":"x","fileName":"{name}","action":"upload","uploadTimestamp":0}}"#
        );
        let files = if lists_packs { file } else { String::new() };
        return json(format!(r#"{{"files":[{files}],"nextFileName":null}}"#));
    }
    if path == "/auth/v1.0" {
        return Answer::new(200, "")
            .header("x-storage-url", format!("{here}/v1/AUTH_x"))
            .header("x-auth-token", "swift-token");
    }
    if path == "/v2.0/tokens" {
        return json(format!(
            r#"{{"access":{{"token":{{"id":"swift-token"}},"serviceCatalog":[{{"type":"object-store","endpoints":[
                {{"region":"one","publicURL":"http://wrong.invalid"}},{{"region":"two","publicURL":"{here}/v1/AUTH_x"}}]}}]}}}}"#
        ));
    }
    if path == "/v3/auth/tokens" {
        return json(format!(
            r#"{{"token":{{"catalog":[{{"type":"compute","endpoints":[]}},{{"type":"object-store","endpoints":[
                {{"interface":"internal","region":"one","url":"http://wrong.invalid"}},
                {{"interface":"public","region":"one","url":"{here}/v1/AUTH_x"}}]}}]}}}}"#
        ))
        .header("x-subject-token", "swift-token");
    }
    if path.starts_with("/v1/AUTH_x/") {
        let files =
            format!(r#"[{{"bytes":1000,"hash":"h","name":"{name}","last_modified":"2026-01-01T00:00:00.000000"}}]"#);
        // Swift ends a list with an empty page.
        return json(if lists_packs && !path.contains("marker=") { files } else { "[]".into() });
    }
    if path.starts_with("/storage/v1/b/") {
        let item = format!(r#"{{"name":"{name}","size":"1000","updated":"2026-01-01T00:00:00Z"}}"#);
        return json(format!(r#"{{"items":[{}]}}"#, if lists_packs { item } else { String::new() }));
    }
    if path.contains("comp=list") {
        let blob = format!(
            "<Blob><Name>{name}</Name><Properties><Last-Modified>Thu, 01 Jan 2026 00:00:00 GMT</Last-Modified>\
             <Etag>e</Etag><Content-Length>1000</Content-Length><Content-Type>x</Content-Type>\
             <Content-MD5></Content-MD5></Properties></Blob>"
        );
        let blobs = if lists_packs { blob } else { String::new() };
        return Answer::new(
            200,
            format!(
                "<?xml version=\"1.0\"?><EnumerationResults><Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>"
            ),
        );
    }
    if path.contains("list-type=2") {
        let object = format!(
            "<Contents><Key>{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>e</ETag><Size>1000</Size></Contents>"
        );
        let objects = if lists_packs { object } else { String::new() };
        return Answer::new(
            200,
            format!(
                "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>false</IsTruncated>{objects}</ListBucketResult>"
            ),
        );
    }
    Answer::new(404, "")
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok()).filter(|_| first == b'%');
        match hex.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

struct Row {
    address: &'static str,
    environment: &'static [(&'static str, &'static str)],
    options: &'static [(&'static str, &'static str)],
    /// The starts of the paths of the list and of the read, decoded.
    list: &'static str,
    read: &'static str,
    /// The header that authorizes, and its start; or a piece of the query.
    authorized: (&'static str, &'static str),
}

/// `HERE` stands for the recorder's address.
const ROWS: &[Row] = &[
    Row {
        address: "s3:http://HERE/bucket/pre/fix",
        environment: &[("AWS_ACCESS_KEY_ID", "kid"), ("AWS_SECRET_ACCESS_KEY", "hush"), ("AWS_DEFAULT_REGION", "eu-x")],
        options: &[],
        list: "/bucket?list-type=2&prefix=pre/fix/data/",
        read: "/bucket/PACK",
        authorized: ("authorization", "AWS4-HMAC-SHA256 Credential=kid/DATE/eu-x/s3/aws4_request"),
    },
    Row {
        address: "s3:http://HERE/bucket/pre/fix",
        environment: &[
            ("AWS_ACCESS_KEY_ID", "kid"),
            ("AWS_SECRET_ACCESS_KEY", "hush"),
            ("AWS_SESSION_TOKEN", "session"),
        ],
        options: &[("s3.region", "optional")],
        list: "/bucket?list-type=2",
        read: "/bucket/PACK",
        authorized: ("x-amz-security-token", "session"),
    },
    Row {
        address: "s3:http://HERE/bucket/pre/fix",
        environment: &[],
        options: &[("s3.unsafe-anonymous-auth", "true")],
        list: "/bucket?list-type=2",
        read: "/bucket/PACK",
        authorized: ("authorization", "NONE"),
    },
    Row {
        address: "gs:bucket:/pre/fix",
        environment: &[("GOOGLE_PROJECT_ID", "1"), ("GOOGLE_ACCESS_TOKEN", "gs-token")],
        options: &[("gs.endpoint", "http://HERE")],
        list: "/storage/v1/b/bucket/o?prefix=pre/fix/data/",
        read: "/storage/v1/b/bucket/o/PACK?alt=media",
        authorized: ("authorization", "Bearer gs-token"),
    },
    Row {
        address: "azure:bucket:/pre/fix",
        environment: &[("AZURE_ACCOUNT_NAME", "account"), ("AZURE_ACCOUNT_KEY", "aHVzaA==")],
        options: &[("azure.endpoint", "http://HERE")],
        list: "/bucket?restype=container&comp=list&prefix=pre/fix/data/",
        read: "/bucket/PACK",
        authorized: ("authorization", "SharedKey account:"),
    },
    Row {
        address: "azure:bucket:/pre/fix",
        environment: &[("AZURE_ACCOUNT_NAME", "account"), ("AZURE_ACCOUNT_SAS", "?sv=2020&sig=hush")],
        options: &[("azure.endpoint", "http://HERE")],
        list: "/bucket?restype=container&comp=list&prefix=pre/fix/data/",
        read: "/bucket/PACK?",
        authorized: ("?", "sig=hush"),
    },
    Row {
        address: "swift:bucket:/pre/fix",
        environment: &[("ST_AUTH", "http://HERE/auth/v1.0"), ("ST_USER", "user"), ("ST_KEY", "hush")],
        options: &[],
        list: "/v1/AUTH_x/bucket/?prefix=pre/fix/data/",
        read: "/v1/AUTH_x/bucket/PACK",
        authorized: ("x-auth-token", "swift-token"),
    },
    Row {
        address: "swift:bucket:/pre/fix",
        environment: &[
            ("OS_AUTH_URL", "http://HERE/v2.0"),
            ("OS_USERNAME", "user"),
            ("OS_PASSWORD", "hush"),
            ("OS_TENANT_NAME", "tenant"),
            ("OS_REGION_NAME", "two"),
        ],
        options: &[],
        list: "/v1/AUTH_x/bucket/?prefix=pre/fix/data/",
        read: "/v1/AUTH_x/bucket/PACK",
        authorized: ("x-auth-token", "swift-token"),
    },
    Row {
        address: "swift:bucket:/pre/fix",
        environment: &[
            ("OS_AUTH_URL", "http://HERE/v3"),
            ("OS_USERNAME", "user"),
            ("OS_PASSWORD", "hush"),
            ("OS_USER_DOMAIN_NAME", "domain"),
            ("OS_PROJECT_NAME", "project"),
        ],
        options: &[],
        list: "/v1/AUTH_x/bucket/?prefix=pre/fix/data/",
        read: "/v1/AUTH_x/bucket/PACK",
        authorized: ("x-auth-token", "swift-token"),
    },
    Row {
        address: "swift:bucket:/pre/fix",
        environment: &[("OS_STORAGE_URL", "http://HERE/v1/AUTH_x"), ("OS_AUTH_TOKEN", "given-token")],
        options: &[],
        list: "/v1/AUTH_x/bucket/?prefix=pre/fix/data/",
        read: "/v1/AUTH_x/bucket/PACK",
        authorized: ("x-auth-token", "given-token"),
    },
    Row {
        address: "b2:bucket:pre/fix",
        environment: &[("B2_ACCOUNT_ID", "kid"), ("B2_ACCOUNT_KEY", "hush")],
        options: &[("b2.endpoint", "http://HERE")],
        list: "/b2api/v2/b2_list_file_names?bucketId=the-id&prefix=pre/fix/data/",
        read: "/file/bucket/PACK",
        authorized: ("authorization", "b2-token"),
    },
];

#[tokio::test]
async fn requests_are_what_the_services_expect() {
    for row in ROWS {
        let server = Recorder::start(answer);
        let here = server.address().to_string();
        let fill = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            map(pairs).into_iter().map(|(name, value)| (name, value.replace("HERE", &here))).collect()
        };
        let options = ConnectOptions {
            environment: fill(row.environment),
            extended: fill(row.options),
            deadline: Duration::from_secs(10),
            ..ConnectOptions::default()
        };
        let location = Location::parse(&row.address.replace("HERE", &here)).unwrap();
        let backend = connect(&location, &options).await.unwrap_or_else(|error| panic!("{}: {error}", row.address));
        let logged_in = server.take();

        let listed = backend.list(FileKind::Pack).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(listed, [ListEntry { id: pack(), len_bytes: 1000 }], "{}", row.address);
        let list = server.take();
        let read = backend.read_range(FileKind::Pack, &pack(), 20..30).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(read, "0123456789");
        let read = server.take();

        let list_request = list.iter().find(|request| percent_decode(&request.path).starts_with(row.list));
        let list_request = list_request.unwrap_or_else(|| panic!("{}: {list:#?}", row.address));
        let [read_request] = read.as_slice() else { panic!("{}: one request for a range: {read:#?}", row.address) };
        let path = percent_decode(&read_request.path);
        assert!(path.starts_with(&row.read.replace("PACK", &pack_path())), "{}: {path}", row.address);
        assert_eq!(read_request.header("range"), Some("bytes=20-29"), "{}", row.address);
        for request in [list_request, read_request] {
            assert_eq!(request.method, "GET");
            assert_eq!(request.host, here);
            let date: String = request.header("x-amz-date").unwrap_or_default().chars().take(8).collect();
            match row.authorized {
                ("?", piece) => assert!(request.path.contains(piece), "{}", row.address),
                (header, "NONE") => assert_eq!(request.header(header), None),
                (header, start) => {
                    let value = request.header(header).unwrap_or_default();
                    assert!(value.starts_with(&start.replace("DATE", &date)), "{}: {header}: {value}", row.address);
                }
            }
        }
        // The secret itself is sent to an identity service only, and never in a line that servers log.
        let all = logged_in.iter().chain(&list).chain(&read);
        for request in all.filter(|_| row.authorized.0 != "?") {
            assert!(!request.path.contains("hush"), "{}", request.path);
        }
        assert!(!format!("{backend:?}").contains("hush") && !format!("{options:?}").contains("hush"));
    }
}

#[tokio::test]
async fn swift_logs_in_as_the_identity_services_expect_and_again_when_a_token_ends() {
    let refused = std::sync::atomic::AtomicBool::new(false);
    let server = Recorder::start(move |request| {
        let is_read = request.header("range").is_some();
        if is_read && !refused.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return Answer::new(401, "");
        }
        answer(request)
    });
    let url = format!("http://{}/v3", server.address());
    let environment = map(&[
        ("OS_AUTH_URL", &url),
        ("OS_APPLICATION_CREDENTIAL_ID", "app"),
        ("OS_APPLICATION_CREDENTIAL_SECRET", "hush"),
    ]);
    let options = ConnectOptions { environment, ..ConnectOptions::default() };
    let backend = connect(&Location::parse("swift:bucket:/pre/fix").unwrap(), &options).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&server.take()[0].body).unwrap();
    let expected = serde_json::json!({ "auth": { "identity": { "methods": ["application_credential"],
        "application_credential": { "id": "app", "secret": "hush" } } } });
    assert_eq!(body, expected);
    backend.read_range(FileKind::Pack, &pack(), 20..30).await.unwrap();
    let paths: Vec<_> = server.take().into_iter().map(|request| request.method + " " + &request.path).collect();
    let read = format!("GET /v1/AUTH_x/bucket/{}", pack_path());
    assert_eq!(paths, [read.as_str(), "POST /v3/auth/tokens", read.as_str()]);
}

#[tokio::test]
async fn what_is_missing_or_wrong_is_named() {
    const KEY: (&str, &str) = ("AWS_ACCESS_KEY_ID", "kid");
    const SECRET: (&str, &str) = ("AWS_SECRET_ACCESS_KEY", "hush");
    for (address, environment, options, expected) in [
        ("s3:host/bucket", &[][..], &[][..], "$AWS_ACCESS_KEY_ID is not set"),
        ("s3:host/bucket", &[KEY], &[], "$AWS_SECRET_ACCESS_KEY is not set"),
        ("s3:host/bucket", &[SECRET], &[], "$AWS_ACCESS_KEY_ID is not set"),
        ("s3:host/bucket", &[KEY, SECRET], &[("s3.bucket-lookup", "x")], "s3.bucket-lookup is auto, dns or path"),
        ("s3:host/bucket", &[KEY, SECRET], &[("s3.layout", "s3legacy")], "s3.layout"),
        ("s3:host/bucket", &[KEY, SECRET], &[("s3.nonsense", "x")], "-o s3.nonsense is not an option"),
        ("gs:bucket:/", &[], &[], "$GOOGLE_APPLICATION_CREDENTIALS or $GOOGLE_ACCESS_TOKEN is not set"),
        ("gs:bucket:/", &[("GOOGLE_APPLICATION_CREDENTIALS", "/not/there")], &[], "is not the path of a file"),
        ("azure:c:/", &[], &[], "$AZURE_ACCOUNT_NAME is not set"),
        ("azure:c:/", &[("AZURE_ACCOUNT_NAME", "a")], &[], "$AZURE_ACCOUNT_KEY or $AZURE_ACCOUNT_SAS is not set"),
        ("swift:c:/", &[], &[], "$OS_AUTH_URL or $ST_AUTH is not set"),
        ("swift:c:/", &[("ST_AUTH", "http://x/")], &[], "$ST_USER is not set"),
        ("swift:c:/", &[("OS_AUTH_URL", "http://x/v3"), ("OS_USERNAME", "u")], &[], "$OS_PASSWORD is not set"),
        ("b2:bucket", &[], &[], "$B2_ACCOUNT_ID is not set"),
        ("b2:bucket", &[("B2_ACCOUNT_ID", "kid")], &[], "$B2_ACCOUNT_KEY is not set"),
        ("sftp:h:/p", &[], &[("sftp.command", "a"), ("sftp.args", "b")], "exclude each other"),
        ("sftp:h:/p", &[], &[("sftp.command", "a 'b")], "quote"),
        ("rest:http://h/", &[], &[("rest.connections", "0")], "rest.connections is not a number above zero"),
        ("local:/x", &[], &[("local.layout", "s3legacy")], "local.layout"),
    ] {
        let options =
            ConnectOptions { environment: map(environment), extended: map(options), ..ConnectOptions::default() };
        let error = connect(&Location::parse(address).unwrap(), &options).await.unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::Invalid, "{address}: {error}");
        assert!(error.to_string().contains(expected), "{address}: {error}");
        assert!(!error.to_string().contains("hush"), "{error}");
    }
    let missing = ConnectOptions { cacert: vec!["/not/there.pem".into()], ..ConnectOptions::default() };
    let error = connect(&Location::parse("rest:https://h/").unwrap(), &missing).await.unwrap_err();
    assert!(error.to_string().contains("--cacert /not/there.pem"), "{error}");
}
