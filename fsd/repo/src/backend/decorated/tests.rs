use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::super::connect::{ConnectOptions, decorated};
use super::super::faulty::{Fault, FaultyBackend, Rule};
use super::super::memory::MemoryBackend;
use super::super::{BackendErrorKind as Kind, Retry as Class};
use super::*;

const ID: Id = Id::new([7; 32]);

/// A store with one pack, faults, and all decorators around them.
async fn stack(options: &ConnectOptions) -> (Arc<dyn Backend>, Arc<FaultyBackend>) {
    let memory = MemoryBackend::default();
    memory.write(FileKind::Pack, &ID, Bytes::from(vec![1; 1000])).await.unwrap();
    let faulty = FaultyBackend::new(Arc::new(memory));
    (decorated(Arc::clone(&faulty) as Arc<dyn Backend>, options), faulty)
}

fn options(deadline_ms: u64) -> ConnectOptions {
    ConnectOptions { deadline: Duration::from_millis(deadline_ms), ..ConnectOptions::default() }
}

#[tokio::test]
async fn test_what_may_pass_is_tried_again_and_counted() {
    let options = options(5000);
    let (backend, faulty) = stack(&options).await;
    for fault in [Fault::ServerError, Fault::Reset, Fault::Short] {
        faulty.set([Rule::every(fault).times(2)]);
        assert_eq!(backend.read_range(FileKind::Pack, &ID, 0..10).await.unwrap().len(), 10);
    }
    let metrics = &options.metrics;
    assert_eq!(metrics.backend_requests.get(), 9);
    assert_eq!(metrics.backend_errors.get(), 6);
    assert_eq!(metrics.backend_retries.get(), 6);
    assert_eq!(metrics.backend_read_bytes.get(), 30);
}

#[tokio::test]
async fn test_what_will_not_pass_is_tried_once() {
    let options = options(5000);
    let (backend, faulty) = stack(&options).await;
    for (fault, kind) in [(Fault::Denied, Kind::Denied), (Fault::NotFound, Kind::NotFound), (Fault::Full, Kind::Full)] {
        faulty.set([Rule::every(fault)]);
        let error = backend.read_full(FileKind::Pack, &ID, 10_000).await.unwrap_err();
        assert_eq!((error.kind, error.retry), (kind, Class::Permanent));
    }
    assert_eq!(options.metrics.backend_requests.get(), 3);
}

#[tokio::test]
async fn test_every_call_ends_inside_its_deadline() {
    for fault in [Fault::Stall, Fault::ServerError] {
        let options = options(400);
        let (backend, faulty) = stack(&options).await;
        faulty.set([Rule::every(fault)]);
        let begun = Instant::now();
        for error in [
            backend.read_range(FileKind::Pack, &ID, 0..1).await.unwrap_err(),
            backend.read_full(FileKind::Pack, &ID, 1000).await.unwrap_err(),
            backend.remove(FileKind::Pack, &ID).await.unwrap_err(),
            backend.create().await.unwrap_err(),
        ] {
            assert_eq!((error.kind, error.retry), (Kind::Unavailable, Class::Temporary), "{error}");
        }
        // Four deadlines, and room for a busy machine.
        assert!(begun.elapsed() < Duration::from_millis(4 * 400 + 2000), "{:?}", begun.elapsed());
        assert!(options.metrics.backend_requests.get() > 4, "an attempt is bounded by a part of the deadline");
    }
}

#[tokio::test]
async fn test_an_attempt_that_hangs_leaves_time_for_another() {
    let options = options(3000);
    let (backend, faulty) = stack(&options).await;
    faulty.set([Rule::every(Fault::Stall).times(1)]);
    assert_eq!(backend.read_range(FileKind::Pack, &ID, 0..10).await.unwrap().len(), 10);
    assert_eq!(options.metrics.backend_errors.get(), 1);
}

/// Counts how many reads run at once.
#[derive(Debug, Default)]
struct Crowd {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Around for Arc<Crowd> {
    async fn around<'a, T: Payload + 'a>(
        &'a self,
        _call: Call<'a>,
        attempt: impl Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    ) -> BackendResult<T> {
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let result = attempt().await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        result
    }
}

#[tokio::test]
async fn test_no_more_run_at_once_than_the_limit() {
    let memory = Arc::new(MemoryBackend::default());
    memory.write(FileKind::Pack, &ID, Bytes::from(vec![1; 1000])).await.unwrap();
    let crowd = Arc::new(Crowd::default());
    let backend = Decorated::wrap(Decorated::wrap(memory, Arc::clone(&crowd)), limit::Limit::new(3));
    let reads = (0..50).map(|_| backend.read_range(FileKind::Pack, &ID, 0..1));
    for read in futures::future::join_all(reads).await {
        read.unwrap();
    }
    assert_eq!(crowd.most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn test_a_retry_that_waits_holds_no_permit() {
    let options = options(5000);
    let memory = MemoryBackend::default();
    memory.write(FileKind::Pack, &ID, Bytes::from_static(b"x")).await.unwrap();
    let faulty = FaultyBackend::new(Arc::new(memory));
    // One permit; the first call fails again and again, and the second passes while the first waits.
    faulty.set([Rule::every(Fault::ServerError).of_kind(FileKind::Index)]);
    let limited = Decorated::wrap(Arc::clone(&faulty) as Arc<dyn Backend>, limit::Limit::new(1));
    let retry = retry::Retry { deadline: options.deadline, max_attempts: Some(4), metrics: Arc::default() };
    let backend = Decorated::wrap(limited, retry);
    let failing = {
        let backend = Arc::clone(&backend);
        tokio::spawn(async move { backend.read_full(FileKind::Index, &ID, 10).await })
    };
    let begun = Instant::now();
    backend.read_full(FileKind::Pack, &ID, 10).await.unwrap();
    assert!(!failing.is_finished(), "after {:?}", begun.elapsed());
    assert_eq!(failing.await.unwrap().unwrap_err().kind, Kind::Unavailable);
}

#[tokio::test]
async fn test_bandwidth_holds_on_average_and_lets_the_first_call_pass() {
    let options = ConnectOptions { limit_download: Some(10_000), ..options(5000) };
    let (backend, _) = stack(&options).await;
    let begun = Instant::now();
    backend.read_range(FileKind::Pack, &ID, 0..1000).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(90), "nothing is owed yet");
    backend.read_full(FileKind::Pack, &ID, 1000).await.unwrap();
    backend.read_range(FileKind::Pack, &ID, 0..1000).await.unwrap();
    // 2,000 bytes are paid for before the third begins.
    assert!(begun.elapsed() >= Duration::from_millis(190), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn test_a_local_read_passes_all_decorators_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let local = super::super::LocalBackend::new(dir.path());
    local.write(FileKind::Pack, &ID, Bytes::from_static(b"0123")).await.unwrap();
    let options = ConnectOptions { limit_download: Some(1 << 30), ..options(1000) };
    let backend = decorated(Arc::new(local), &options);
    let mut buf = [0; 2];
    backend.read_local(FileKind::Pack, &ID, 1, &mut buf).unwrap().unwrap();
    assert_eq!(&buf, b"12");
    assert_eq!((options.metrics.backend_requests.get(), options.metrics.backend_read_bytes.get()), (1, 2));
    let options = self::options(1000);
    let (remote, _) = stack(&options).await;
    assert!(remote.read_local(FileKind::Pack, &ID, 0, &mut buf).is_none());
    assert_eq!(options.metrics.backend_requests.get(), 0, "what the store does not do is no request");
}
