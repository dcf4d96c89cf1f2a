use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::testing::MemoryBackend;

/// A key file of little work.
fn key_file(master: &MasterKey, password: &str) -> Vec<u8> {
    let scrypt = super::super::Scrypt { log_n: 1, r: 1, p: 1 };
    let key = scrypt.derive(password.as_bytes(), b"salt").unwrap();
    let data = key.seal(&super::super::master_key_json(master).unwrap());
    let none = String::new();
    let file =
        KeyFile { scrypt, salt: b"salt".to_vec(), data, hostname: none.clone(), username: none.clone(), created: none };
    file.to_json().unwrap()
}

async fn found(store: &Arc<MemoryBackend>, password: &str, hint: Option<&str>) -> RepoResult<KeyId> {
    let backend: Arc<dyn Backend> = store.clone();
    search(&backend, password, hint).await.map(|(id, _)| id)
}

#[tokio::test]
async fn test_the_right_key_is_found_among_others() {
    let store = MemoryBackend::new();
    assert!(matches!(found(&store, "a", None).await, Err(RepoError::WrongPassword { tried: 0 })));
    let master = MasterKey::generate();
    let a = store.put_hashed(FileKind::Key, key_file(&master, "a"));
    let b = store.put_hashed(FileKind::Key, key_file(&master, "b"));
    let broken = store.put_hashed(FileKind::Key, &b"{"[..]);
    let terabytes = String::from_utf8(key_file(&master, "a")).unwrap().replace("\"N\":2", "\"N\":1099511627776");
    store.put_hashed(FileKind::Key, terabytes);
    assert_eq!(found(&store, "a", None).await.unwrap().0, a);
    assert_eq!(found(&store, "b", Some("zz")).await.unwrap().0, b);
    assert_eq!(found(&store, "b", Some(&broken.to_hex()[..6])).await.unwrap().0, b);
    assert!(matches!(found(&store, "c", None).await, Err(RepoError::WrongPassword { tried: 2 })));
}

#[tokio::test]
async fn test_a_key_that_does_not_open_the_config_is_passed_over() {
    let (ours, stray) = (MasterKey::generate(), MasterKey::generate());
    for hinted in [false, true] {
        let store = MemoryBackend::new();
        let right = store.put_hashed(FileKind::Key, key_file(&ours, "a"));
        let wrong = store.put_hashed(FileKind::Key, key_file(&stray, "a"));
        let backend: Arc<dyn Backend> = store.clone();
        let hint = hinted.then(|| wrong.to_hex());
        let search = async |config: Vec<u8>| search_for_config(&backend, "a", hint.as_deref(), &config).await;
        assert_eq!(search(ours.seal(b"{}")).await.unwrap().0, KeyId(right));
        let none = search(MasterKey::generate().seal(b"{}")).await;
        assert!(matches!(none, Err(RepoError::WrongMac { what: "config", .. })), "{none:?}");
    }
}

#[tokio::test]
async fn test_a_hint_reaches_keys_beyond_the_limit() {
    let store = MemoryBackend::new();
    let master = MasterKey::generate();
    let keys = (0..TRIED_KEYS_LIMIT + 10).map(|n| {
        let password = n.to_string();
        (store.put_hashed(FileKind::Key, key_file(&master, &password)), password)
    });
    let (last, password) = keys.max().unwrap();
    let error = found(&store, &password, None).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no key opens among the first 16 of 26: name the one that belongs to the password (key hint)"
    );
    let before = store.reads.load(Relaxed);
    assert_eq!(found(&store, &password, Some(&last.short())).await.unwrap().0, last);
    assert!(store.reads.load(Relaxed) - before <= READ_AHEAD);
}

#[tokio::test]
async fn test_unusable_keys_are_no_wrong_password() {
    let store = MemoryBackend::new();
    let bad = store.put_hashed(FileKind::Key, &b"{\"kdf\":7}"[..]);
    assert!(matches!(found(&store, "a", None).await, Err(RepoError::Format { what: "key", id, .. }) if id == bad));
    // A key that cannot be read may be the right one.
    store.put_hashed(FileKind::Key, key_file(&MasterKey::generate(), "b"));
    store.fail(FileKind::Key, bad, Some(BackendErrorKind::Denied));
    assert!(
        matches!(found(&store, "a", None).await, Err(RepoError::Backend(error)) if error.kind == BackendErrorKind::Denied)
    );
    // One that was removed since the list is not.
    store.fail(FileKind::Key, bad, Some(BackendErrorKind::NotFound));
    assert!(matches!(found(&store, "a", None).await, Err(RepoError::WrongPassword { tried: 1 })));
    store.fail_lists(Some(BackendErrorKind::Unavailable));
    assert!(matches!(found(&store, "b", None).await, Err(RepoError::Backend(_))));
}

#[tokio::test]
async fn test_a_changed_key_file_that_opens_is_used() {
    let store = MemoryBackend::new();
    let file = key_file(&MasterKey::generate(), "a");
    store.put(FileKind::Key, Id::default(), file);
    assert_eq!(found(&store, "a", None).await.unwrap(), KeyId::default());
}
