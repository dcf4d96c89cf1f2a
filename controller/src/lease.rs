//! Which of several controllers acts: the holder of a Lease.
//!
//! The rules are those of Kubernetes' own controllers: who holds the Lease renews it; others take it when it has not been renewed for
//! as long as it is valid, by their own clock, since clocks of machines differ. Who comes back under the same identity goes on at once.
//! Two that both believe they hold it harm nobody for the moments that it takes to find out: what is made has names of its own, and a
//! status is written over the version that was decided on.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::context::MANAGER;

/// For how long a Lease is valid, as in Kubernetes' own controllers.
const VALID: Duration = Duration::from_secs(15);
/// How long its holder tries to renew it before it gives up.
const GIVE_UP: Duration = Duration::from_secs(10);
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(5);
/// How often others look at it.
const RETRY: Duration = Duration::from_secs(2);

/// Who may take a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// It is ours already.
    Ours,
    /// Nobody's: it may be taken.
    Free,
    /// Another's.
    Taken,
}

/// Tells whether `identity` may take a Lease that has not been changed for `unchanged`.
fn claim(lease: &LeaseSpec, identity: &str, unchanged: Duration) -> Claim {
    let holder = lease.holder_identity.as_deref().unwrap_or_default();
    let valid = lease.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    if holder == identity {
        Claim::Ours
    } else if holder.is_empty() || unchanged > valid.map_or(VALID, Duration::from_secs) {
        Claim::Free
    } else {
        Claim::Taken
    }
}

/// Returns a Lease as its holder writes it `now`.
fn held(before: Option<&LeaseSpec>, identity: &str, now: Timestamp) -> LeaseSpec {
    let ours = before.is_some_and(|before| before.holder_identity.as_deref() == Some(identity));
    let transitions = before.and_then(|before| before.lease_transitions).unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(VALID.as_secs()).ok(),
        acquire_time: before.filter(|_| ours).map_or(Some(MicroTime(now)), |before| before.acquire_time.clone()),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if ours || before.is_none() { transitions } else { transitions + 1 }),
        ..LeaseSpec::default()
    }
}

/// The Lease of the controllers of a release.
#[derive(Debug)]
pub struct Leadership {
    api: Api<Lease>,
    name: String,
    identity: String,
    seen: Option<(Lease, Instant)>,
}

impl Leadership {
    /// Names the Lease `name` of `namespace`, for `identity`.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, name: name.to_owned(), identity: identity.to_owned(), seen: None }
    }

    /// Waits until the Lease is ours.
    pub async fn acquire(&mut self) {
        let mut ticks = interval(RETRY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match timeout(GIVE_UP, self.take()).await {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) => tracing::debug!(lease = self.name, "another controller acts"),
                Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "the Lease could not be taken"),
                Err(_) => tracing::warn!(lease = self.name, "the API server did not answer about the Lease"),
            }
        }
    }

    /// Renews the Lease for as long as that works; returns when it is lost.
    pub async fn hold(&mut self) {
        let mut ticks = interval(RENEW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewed = Instant::now();
        loop {
            ticks.tick().await;
            let started = Instant::now();
            match timeout(GIVE_UP, self.take()).await {
                Ok(Ok(true)) => renewed = started,
                // Somebody else has it.
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "the Lease could not be renewed"),
                Err(_) => {}
            }
            if renewed.elapsed() > GIVE_UP {
                return;
            }
        }
    }

    /// Gives the Lease back, so that the next need not wait.
    pub async fn release(&mut self) {
        let Some((mut lease, _)) = self.seen.take() else { return };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.renew_time = None;
        }
        let parameters = parameters();
        let replaced = self.api.replace(&self.name, &parameters, &lease);
        if let Ok(Err(error)) = timeout(RETRY, replaced).await {
            tracing::warn!(lease = self.name, %error, "the Lease was not given back; it runs out");
        }
    }

    /// Takes the Lease or renews it; returns whether it is ours.
    async fn take(&mut self) -> Result<bool, kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(held(None, &self.identity, Timestamp::now())) };
            return self.wrote(self.api.create(&parameters(), &lease).await);
        };
        let is_known = self.seen.as_ref().is_some_and(|(seen, _)| seen.resource_version() == lease.resource_version());
        if !is_known {
            self.seen = Some((lease.clone(), Instant::now()));
        }
        let unchanged = self.seen.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let spec = lease.spec.clone().unwrap_or_default();
        if claim(&spec, &self.identity, unchanged) == Claim::Taken {
            return Ok(false);
        }
        lease.spec = Some(held(Some(&spec), &self.identity, Timestamp::now()));
        let replaced = self.api.replace(&self.name, &parameters(), &lease).await;
        self.wrote(replaced)
    }

    /// Takes note of what was written. Who was too late looks again.
    fn wrote(&mut self, written: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
        match written {
            Ok(lease) => {
                self.seen = Some((lease, Instant::now()));
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_who_may_take_it() {
        let lease = |holder: &str| LeaseSpec {
            holder_identity: (!holder.is_empty()).then(|| holder.to_owned()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        };
        for (holder, unchanged, expected) in [
            ("", 0, Claim::Free),
            ("us", 0, Claim::Ours),
            ("us", 100, Claim::Ours),
            ("them", 0, Claim::Taken),
            ("them", 15, Claim::Taken),
            ("them", 16, Claim::Free),
        ] {
            assert_eq!(claim(&lease(holder), "us", Duration::from_secs(unchanged)), expected, "{holder} {unchanged}");
        }
        let odd = LeaseSpec { lease_duration_seconds: Some(-1), ..lease("them") };
        assert_eq!(claim(&odd, "us", Duration::from_secs(1)), Claim::Taken);
    }

    #[test]
    fn test_what_a_holder_writes() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = held(None, "a", at(1));
        assert_eq!((first.lease_transitions, &first.acquire_time), (Some(0), &Some(MicroTime(at(1)))));
        let renewed = held(Some(&first), "a", at(5));
        assert_eq!((renewed.lease_transitions, &renewed.acquire_time), (Some(0), &Some(MicroTime(at(1)))));
        assert_eq!(renewed.renew_time, Some(MicroTime(at(5))));
        let taken = held(Some(&renewed), "b", at(30));
        assert_eq!((taken.lease_transitions, &taken.acquire_time), (Some(1), &Some(MicroTime(at(30)))));
    }
}
