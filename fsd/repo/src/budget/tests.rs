use std::sync::atomic::AtomicBool;

use futures::FutureExt as _;

use super::*;

const MIB: usize = 1 << 20;

fn budget(mib: usize) -> Budget {
    Budget::new(mib * MIB, Arc::default())
}

#[test]
fn test_reserve_split_shrink_and_drop_add_up() {
    let budget = budget(32);
    let mut grant = budget.try_reserve(10 * MIB).unwrap();
    let part = grant.split(4 * MIB).unwrap();
    assert!(grant.split(7 * MIB).is_none());
    assert_eq!((grant.bytes(), part.bytes(), budget.used_bytes()), (6 * MIB, 4 * MIB, 10 * MIB));
    grant.shrink(MIB);
    assert_eq!(budget.used_bytes(), 5 * MIB);
    grant.merge(part);
    assert_eq!((grant.bytes(), budget.used_bytes()), (5 * MIB, 5 * MIB));
    assert_eq!(budget.inner.state.lock().working, 1);
    grant.settle();
    assert_eq!(budget.inner.state.lock().working, 0);
    drop(grant);
    assert_eq!((budget.used_bytes(), budget.inner.state.lock().working), (0, 0));
    assert_eq!(budget.inner.metrics.budget_used_bytes.load(Relaxed), 0);
}

#[test]
fn test_the_limit_holds_and_ahead_leaves_room() {
    let budget = budget(32);
    let _most = budget.try_reserve(30 * MIB).unwrap();
    assert!(budget.try_reserve(3 * MIB).is_none());
    assert!(budget.try_reserve_leaving(MIB, 2 * MIB).is_none());
    assert!(budget.try_reserve(2 * MIB).is_some());
    assert!(budget.try_reserve(usize::MAX).is_none());
}

#[tokio::test]
async fn test_waiters_are_served_in_order_and_nobody_overtakes() {
    let budget = budget(32);
    let first = budget.try_reserve(30 * MIB).unwrap();
    let mut large = Box::pin(budget.reserve(20 * MIB));
    assert!((&mut large).now_or_never().is_none());
    let mut small = Box::pin(budget.reserve(MIB));
    assert!((&mut small).now_or_never().is_none());
    assert!(budget.try_reserve(1).is_none(), "there is room, but others wait");
    drop(first);
    let large = large.await;
    let small = small.await;
    assert_eq!((large.bytes(), small.bytes()), (20 * MIB, MIB));
    drop((large, small));
    assert!(budget.try_reserve(1).is_some());
}

#[tokio::test]
async fn test_a_waiter_that_gives_up_makes_way() {
    let budget = budget(32);
    let _first = budget.try_reserve(30 * MIB).unwrap();
    let mut large = Box::pin(budget.reserve(20 * MIB));
    assert!((&mut large).now_or_never().is_none());
    drop(large);
    assert!(budget.try_reserve(MIB).is_some());
}

struct Cache(Mutex<Option<Grant>>, Arc<AtomicBool>);
impl Reclaim for Cache {
    fn trim(&self, _: usize, _: bool) {}
    fn flush(&self) {
        self.1.store(true, SeqCst);
        drop(self.0.lock().take());
    }
}

#[test]
fn test_what_stays_is_bounded_by_itself_and_caches_make_room() {
    let budget = budget(32);
    let flushed = Arc::new(AtomicBool::new(false));
    let mut cached = budget.try_reserve(30 * MIB).unwrap();
    cached.settle();
    budget.add_reclaim(Box::new(Cache(Mutex::new(Some(cached)), flushed.clone())));
    let first = budget.reserve_to_stay(2 * MIB, 24 * MIB).unwrap();
    assert_eq!((budget.used_bytes(), flushed.load(SeqCst)), (32 * MIB, false), "it fits beside what is cached");
    let second = budget.reserve_to_stay(10 * MIB, 24 * MIB).unwrap();
    assert_eq!((budget.used_bytes(), flushed.load(SeqCst)), (12 * MIB, true));
    // What readers hold comes back by itself.
    let held = budget.try_reserve(19 * MIB).unwrap();
    let third = budget.reserve_to_stay(10 * MIB, 24 * MIB).unwrap();
    assert_eq!(budget.used_bytes(), 41 * MIB);
    assert!(budget.try_reserve(1).is_none());
    assert!(budget.reserve_to_stay(3 * MIB, 24 * MIB).is_none(), "no more stays than may");
    drop((held, second));
    assert!(budget.reserve_to_stay(3 * MIB, 24 * MIB).is_some());
    drop((first, third));
    assert_eq!((budget.used_bytes(), budget.inner.state.lock().working), (0, 0));
}

#[tokio::test]
async fn test_when_nobody_works_caches_are_emptied_and_then_one_is_let_through() {
    let budget = budget(32);
    let flushed = Arc::new(AtomicBool::new(false));
    let mut cached = budget.try_reserve(20 * MIB).unwrap();
    cached.settle();
    budget.add_reclaim(Box::new(Cache(Mutex::new(Some(cached)), flushed.clone())));
    let mut work = budget.try_reserve(8 * MIB).unwrap();
    let mut waiting = Box::pin(budget.reserve(10 * MIB));
    assert!((&mut waiting).now_or_never().is_none(), "somebody works");
    assert!(!flushed.load(SeqCst));
    work.settle();
    let mut granted = waiting.await;
    assert!(flushed.load(SeqCst));
    granted.settle();
    assert_eq!(budget.used_bytes(), 18 * MIB);
    // Readers hold 18 MiB and nothing can be freed: one goes beyond, the next waits until it is done.
    let mut beyond = budget.reserve(20 * MIB).await;
    assert_eq!(budget.used_bytes(), 38 * MIB);
    let mut next = Box::pin(budget.reserve(20 * MIB));
    assert!((&mut next).now_or_never().is_none());
    beyond.settle();
    drop(beyond);
    next.await;
}
