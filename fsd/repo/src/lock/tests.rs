use std::future::Future;

use super::*;
use crate::backend::BackendErrorKind;
use crate::testing::MemoryBackend;
use crate::write::init::{InitOptions, init};

async fn repository() -> (Arc<MemoryBackend>, Access) {
    let store = MemoryBackend::new();
    let access = init(store.clone(), "password", &InitOptions::default()).await.unwrap();
    (store, access)
}

fn never() -> impl Future<Output = ()> {
    std::future::pending()
}

async fn take(access: &Access, exclusive: bool) -> RepoResult<Held> {
    Held::take(access, exclusive, Duration::ZERO, never()).await
}

async fn locks(access: &Access) -> Vec<LockFile> {
    let found = list(access, &HashSet::new()).await.unwrap();
    found.into_iter().map(|lock| lock.content.unwrap()).collect()
}

fn lock(age_secs: i64, hostname: &str, pid: i32) -> LockFile {
    let time = Timestamp::now() - jiff::SignedDuration::from_secs(age_secs);
    LockFile { time, hostname: hostname.to_owned(), pid, ..LockFile::of_this_process(false) }
}

#[test]
fn test_restics_lock_reads() {
    let json = r#"{"time":"2015-06-27T12:18:51.759239612+02:00","exclusive":false,"hostname":"kasimir","username":"fd0",
        "pid":13607,"uid":1000,"gid":100}"#;
    let lock: LockFile = serde_json::from_str(json).unwrap();
    assert_eq!(lock.time.to_string(), "2015-06-27T10:18:51.759239612Z");
    assert_eq!((lock.hostname.as_str(), lock.pid, lock.uid, lock.gid), ("kasimir", 13607, 1000, 100));
    let written = serde_json::to_value(LockFile { uid: 0, gid: 0, ..lock }).unwrap();
    assert!(written.get("uid").is_none() && written.get("gid").is_none(), "restic leaves zeros out");
}

#[test]
fn test_stale_is_old_or_of_a_dead_process_of_this_host() {
    let now = Timestamp::now();
    for (age, host, alive, stale) in [
        (0, "here", true, false),
        (0, "here", false, true),
        (0, "there", false, false),
        (1799, "there", false, false),
        (1801, "there", true, true),
        (1801, "here", true, true),
        // A clock that is ahead makes nothing stale.
        (-7200, "there", false, false),
    ] {
        assert_eq!(lock(age, host, 1).is_stale(now, "here", |_| alive), stale, "{age} {host} {alive}");
    }
}

#[test]
fn test_holder_is_safe_to_print() {
    let text = LockFile { username: "a\x1b[2Jb".to_owned(), ..lock(0, "ho\nst", 7) }.holder(&Id::default());
    assert!(text.contains("a[2Jb@host, pid 7, since "), "{text}");
}

#[tokio::test]
async fn test_shared_locks_go_together_and_an_exclusive_one_alone() {
    let (_store, access) = repository().await;
    let first = take(&access, false).await.unwrap();
    let second = take(&access, false).await.unwrap();
    let Err(RepoError::Locked { holder }) = take(&access, true).await else { panic!("taken beside shared ones") };
    assert!(holder.contains(&format!("pid {}", std::process::id())), "{holder}");
    assert_eq!(locks(&access).await.len(), 2, "the attempt left its lock");
    first.release().await.unwrap();
    second.release().await.unwrap();
    let exclusive = take(&access, true).await.unwrap();
    assert!(matches!(take(&access, false).await, Err(RepoError::Locked { .. })));
    assert!(matches!(take(&access, true).await, Err(RepoError::Locked { .. })));
    exclusive.release().await.unwrap();
    assert!(locks(&access).await.is_empty());
}

#[tokio::test]
async fn test_of_two_that_want_all_at_most_one_gets_it() {
    let (_store, access) = repository().await;
    for _ in 0..5 {
        let attempts = futures::future::join_all((0..4).map(|_| take(&access, true))).await;
        let held: Vec<_> = attempts.into_iter().filter_map(Result::ok).collect();
        assert!(held.len() <= 1, "{} exclusive locks at once", held.len());
        for lock in held {
            lock.release().await.unwrap();
        }
        assert!(locks(&access).await.is_empty());
    }
}

#[tokio::test]
async fn test_waiting_ends_when_asked_to() {
    let (_store, access) = repository().await;
    let held = take(&access, true).await.unwrap();
    let stopped = Held::take(&access, false, Duration::from_secs(3600), std::future::ready(())).await;
    assert!(matches!(stopped, Err(RepoError::Cancelled)));
    held.release().await.unwrap();
}

#[tokio::test]
async fn test_a_shared_lock_becomes_exclusive_or_is_given_back() {
    let (_store, access) = repository().await;
    let held = take(&access, false).await.unwrap().into_exclusive(Duration::ZERO, never()).await.unwrap();
    assert_eq!(locks(&access).await.iter().map(|lock| lock.exclusive).collect::<Vec<_>>(), [true]);
    held.release().await.unwrap();
    let other = take(&access, false).await.unwrap();
    let own = take(&access, false).await.unwrap();
    assert!(matches!(own.into_exclusive(Duration::ZERO, never()).await, Err(RepoError::Locked { .. })));
    assert_eq!(locks(&access).await.len(), 1);
    other.release().await.unwrap();
}

#[tokio::test]
async fn test_a_lock_that_cannot_be_read_excludes() {
    let (store, access) = repository().await;
    store.put_hashed(FileKind::Lock, vec![1; 100]);
    assert!(matches!(take(&access, false).await, Err(RepoError::WrongMac { .. })));
    // An empty file is what a failed write leaves: no lock.
    let (store, access) = repository().await;
    store.put(FileKind::Lock, Id::new([1; 32]), Vec::new());
    take(&access, true).await.unwrap().release().await.unwrap();
    store.fail_lists(Some(BackendErrorKind::Unavailable));
    assert!(matches!(take(&access, false).await, Err(RepoError::Backend(_))));
}

#[tokio::test]
async fn test_stale_locks_go_and_others_stay() {
    let (_store, access) = repository().await;
    for file in [lock(1900, "there", 1), lock(10, "there", 1), lock(10, &hostname(), i32::MAX)] {
        write(&access, &file).await.unwrap();
    }
    assert_eq!(remove(&access, false).await.unwrap(), 2);
    assert_eq!(locks(&access).await.iter().map(|lock| lock.hostname.clone()).collect::<Vec<_>>(), ["there"]);
    assert_eq!(remove(&access, true).await.unwrap(), 1);
    assert!(locks(&access).await.is_empty());
}

#[tokio::test]
async fn test_a_lease_ends() {
    let lease = Lease::until(lease::since_boot(), Duration::from_secs(60));
    lease.check().unwrap();
    lease.renew(Duration::ZERO, Duration::from_millis(1));
    assert!(matches!(lease.check(), Err(RepoError::LockLost { .. })), "a lease that ended after boot lets write");
    lease.renew(lease::since_boot(), Duration::from_secs(60));
    lease.check().unwrap();
    lease.lose(RepoError::Cancelled);
    assert!(matches!(lease.check(), Err(RepoError::Cancelled)));
    lease.renew(lease::since_boot(), Duration::from_secs(60));
    assert!(matches!(lease.check(), Err(RepoError::Cancelled)), "what was lost came back");
}

#[tokio::test]
async fn test_refresh_writes_anew_and_a_removed_lock_is_lost() {
    let (store, access) = repository().await;
    let held = take(&access, true).await.unwrap();
    let before = store.list(FileKind::Lock).await.unwrap();
    held.refresh_now().await.unwrap();
    let after = store.list(FileKind::Lock).await.unwrap();
    assert_eq!((before.len(), after.len()), (1, 1));
    assert_ne!(before[0].id, after[0].id);
    remove(&access, true).await.unwrap();
    assert!(matches!(held.refresh_now().await, Err(RepoError::LockLost { .. })));
    assert!(store.list(FileKind::Lock).await.unwrap().is_empty(), "a lock that was taken away was written again");
    held.release().await.unwrap();
}
