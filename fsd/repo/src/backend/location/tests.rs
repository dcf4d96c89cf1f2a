use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Location {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn test_addresses_mean_what_they_mean_to_restic() {
    // (address, shown)
    for (text, shown) in [
        ("/srv/repo", "/srv/repo"),
        ("/srv/a:b", "/srv/a:b"),
        ("./s3:x", "./s3:x"),
        ("../up", "../up"),
        ("repo", "repo"),
        ("local:rel/path", "rel/path"),
        ("local:s3:odd", "s3:odd"),
        ("s3:s3.amazonaws.com/bucket", "s3:s3.amazonaws.com/bucket"),
        ("s3://s3.amazonaws.com/bucket/a/b/", "s3:s3.amazonaws.com/bucket/a/b"),
        ("s3:https://host:9000/bucket/pre/fix", "s3:host:9000/bucket/pre/fix"),
        ("s3:http://127.0.0.1:9000/bucket", "s3:http://127.0.0.1:9000/bucket"),
        ("s3:http://[::1]:9000/bucket//x/../y", "s3:http://[::1]:9000/bucket/y"),
        ("s3:eu-central-1/bucket/dir", "s3:eu-central-1/bucket/dir"),
        ("rest:http://host:8000", "rest:http://host:8000/"),
        ("rest:https://user:pa%40ss@host/a/b", "rest:https://host/a/b/"),
        ("rest:http+unix:///run/rest.sock:/my/repo", "rest:http+unix:///run/rest.sock:/my/repo/"),
        ("rest:http+unix:///run/rest.sock", "rest:http+unix:///run/rest.sock:/"),
        ("sftp:user@host:/srv/repo", "sftp:user@host:/srv/repo"),
        ("sftp:user@domain@host:/srv//repo/", "sftp:user@domain@host:/srv/repo"),
        ("sftp:host:rel", "sftp:host:rel"),
        ("sftp:host:", "sftp:host:."),
        ("sftp://user@[::1]:2222//abs/path", "sftp://user@[::1]:2222//abs/path"),
        ("sftp://user:secret@host/rel/path", "sftp:user@host:rel/path"),
        ("sftp://host:22//abs", "sftp://host:22//abs"),
        ("rclone:remote:path", "rclone:remote:path"),
        ("rclone::s3,secret_access_key=hush:bucket", "rclone::s3,..."),
        ("gs:bucket:/", "gs:bucket:/"),
        ("gs:bucket:/a//b/", "gs:bucket:/a/b"),
        ("azure:container:/prefix", "azure:container:/prefix"),
        ("swift:container:/prefix", "swift:container:/prefix"),
        ("b2:bucket", "b2:bucket:"),
        ("b2:bucket:/a/b", "b2:bucket:a/b"),
    ] {
        let location = parse(text);
        assert_eq!(location.to_string(), shown, "{text}");
        assert_eq!(format!("{location:?}"), format!("Location({shown})"));
    }
}

#[test]
fn test_parts_are_taken_apart() {
    assert_eq!(
        parse("s3:https://host:9000/bucket/a/b"),
        Location::S3 { plain_http: false, endpoint: "host:9000".into(), bucket: "bucket".into(), prefix: "a/b".into() }
    );
    assert_eq!(
        parse("sftp://user@[fe80::1]:2222//abs"),
        Location::Sftp { user: Some("user".into()), host: "fe80::1".into(), port: Some(2222), path: "/abs".into() }
    );
    let Location::Rest(rest) = parse("rest:https://us%20er:p%3Aw@host:8000/x") else { panic!("not rest") };
    assert_eq!((rest.username.as_deref(), rest.password.as_deref()), (Some("us er"), Some("p:w")));
    assert_eq!(rest.url.as_str(), "https://host:8000/x/");
    let Location::Rest(rest) = parse("rest:http+unix:///run/s.sock:/r") else { panic!("not rest") };
    assert_eq!((rest.unix_socket, rest.url.path()), (Some("/run/s.sock".into()), "/r/"));
}

#[test]
fn test_wrong_addresses_are_refused_with_the_expected_form() {
    for (text, expect) in [
        ("", "empty"),
        ("local:", "needs a path"),
        ("opendal:s3", "known are local:, s3:"),
        ("opendal://x", "local: in front"),
        ("ftp://user:hush@host/", "unknown scheme"),
        ("C:\\repo", "unknown scheme"),
        ("s3:", "the host is missing"),
        ("s3:https://", "the host is missing"),
        ("s3:host", "the bucket is missing"),
        ("s3:host//x", "the bucket is missing"),
        ("s3:https://key:hush@host/bucket", "takes no credentials"),
        ("s3:ho st/bucket", "this host is none"),
        ("rest:", "rest: an address is"),
        ("rest:ftp://host/", "http:// or https://"),
        ("rest:http://user:hush@/x", "rest: an address is"),
        ("rest:http://h/?a=hush", "neither a query"),
        ("rest:http+unix://rel", "a socket is given"),
        ("sftp:host", "the path is missing"),
        ("sftp://host", "the path is missing"),
        ("sftp::/path", "the host is missing"),
        ("sftp:-oProxyCommand=x:/path", "start with no dash"),
        ("sftp:-l@host:/path", "start with no dash"),
        ("sftp://user@-host/path", "start with no dash"),
        ("sftp:host:~/x", "starts with ~"),
        ("rclone:", "needs a remote"),
        ("gs:bucket", "second colon"),
        ("gs::/x", "is missing"),
        ("azure:container", "second colon"),
        ("swift:container:prefix", "starts with a slash"),
        ("swift:container", "second colon"),
        ("b2:", "is missing"),
        ("/a\0b", "NUL"),
    ] {
        let error = text.parse::<Location>().expect_err(text).to_string();
        assert!(error.contains(expect), "{text}: {error}");
        assert!(!error.contains("hush"), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn test_parse_never_panics(text in "\\PC*") {
        drop(text.parse::<Location>());
    }

    #[test]
    fn test_parse_of_known_schemes_never_panics_and_never_shows_a_password(
        scheme in "(local|s3|rest|sftp|rclone|gs|azure|swift|b2):",
        slashes in "(|//|http://|https://|http\\+unix://)",
        rest in "[a-z0-9@:/%.\\[\\]~,=?#-]{0,24}",
    ) {
        drop(format!("{scheme}{slashes}{rest}").parse::<Location>());
        let with_password = format!("{scheme}{slashes}user:QQhushQQ@{rest}").parse::<Location>();
        if let Ok(location @ (Location::Rest(_) | Location::S3 { .. })) = with_password
            && slashes.ends_with("://") && !slashes.starts_with("http+") {
            let shown = format!("{location} {location:?}");
            prop_assert!(!shown.contains("QQhushQQ"));
        }
    }

    #[test]
    fn test_what_is_shown_means_the_same(
        text in "(s3:(http://)?[a-z]{1,5}(:9000)?/[a-z]{1,4}(/[a-z./]{0,9})?|sftp:([a-z]{1,3}@)?[a-z]{1,5}:/?[a-z./]{0,9}|(gs|azure|swift):[a-z]{1,5}:/[a-z./]{0,9}|rest:https?://[a-z]{1,5}/[a-z/]{0,9})",
    ) {
        let location: Location = text.parse().unwrap();
        prop_assert_eq!(location.to_string().parse::<Location>(), Ok(location));
    }
}

#[test]
fn test_addresses_of_programs_and_with_credentials_are_none_of_a_cluster() {
    for address in ["/repository", "s3:http://host/bucket/prefix", "rest:https://host/", "gs:b:/p", "b2:b:/"] {
        assert!(Location::parse_in_cluster(address).is_ok(), "{address}");
    }
    for (address, words) in [
        ("sftp:user@host:/path", "starts no programs"),
        ("rclone:remote:path", "starts no programs"),
        ("rest:https://user:geheim@host/", "REST_SERVER_PASSWORD"),
        ("s3:https://id:geheim@host/bucket", "no credentials"),
        ("nonsense:x", "unknown scheme"),
    ] {
        let message = Location::parse_in_cluster(address).unwrap_err().to_string();
        assert!(message.contains(words) && !message.contains("geheim"), "{message}");
    }
}
