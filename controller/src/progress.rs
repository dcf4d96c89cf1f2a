//! How far restores are: their pods say it to whoever asks, and it stands in the status. It is only shown; nothing is decided by it.

use std::net::IpAddr;
use std::time::Duration;

use futures::future::join_all;
use stash_proto::job::{PROGRESS_LIMIT_BYTES, PROGRESS_PORT, Progress};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{go_duration, units};

/// How long a pod may take to answer. A network that lets nobody in says nothing at all.
const PATIENCE: Duration = Duration::from_secs(1);
/// Of how many pods it is asked at once.
const PODS: usize = 64;

/// Asks pods how far they are. Of those that do not answer nothing is known.
pub async fn ask(pods: &[IpAddr]) -> Vec<Progress> {
    let asked = pods.iter().take(PODS).map(|pod| timeout(PATIENCE, ask_one(*pod)));
    join_all(asked).await.into_iter().filter_map(|answer| answer.ok()?).collect()
}

async fn ask_one(pod: IpAddr) -> Option<Progress> {
    let stream = TcpStream::connect((pod, PROGRESS_PORT)).await.ok()?;
    let mut answer = Vec::new();
    stream.take(PROGRESS_LIMIT_BYTES).read_to_end(&mut answer).await.ok()?;
    serde_json::from_slice(&answer).ok()
}

/// Says how far several are together, as `42% of 1.500 GiB, 2m10s left`; nothing while nothing is known.
pub fn text(pods: &[Progress]) -> Option<String> {
    let sum = |of: fn(&Progress) -> u64| pods.iter().map(of).fold(0, u64::saturating_add);
    let (done, total) = (sum(|pod| pod.bytes), sum(|pod| pod.of_bytes));
    // What is known of the whole comes a moment after what is done.
    let percent = u128::from(done).saturating_mul(100).checked_div(u128::from(total))?.min(100);
    let left = pods.iter().filter_map(|pod| pod.seconds_left).max();
    let left = left.map(|left| format!(", {} left", go_duration::format(Duration::from_secs(left))));
    Some(format!("{percent}% of {}{}", units::size(total), left.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_how_far_several_are() {
        let pod = |bytes, of_bytes, seconds_left| Progress { entries: 1, bytes, of_bytes, seconds_left };
        for (pods, expected) in [
            (vec![], ""),
            (vec![pod(0, 0, None)], ""),
            (vec![pod(0, 100, None)], "0% of 100 B"),
            (vec![pod(1 << 20, 3 << 20, Some(130))], "33% of 3.000 MiB, 2m10s left"),
            (vec![pod(10, 100, Some(5)), pod(90, 100, Some(1)), pod(0, 0, None)], "50% of 200 B, 5s left"),
            (vec![pod(u64::MAX, u64::MAX, None), pod(7, 7, Some(0))], "100% of 16777216.000 TiB, 0s left"),
            (vec![pod(200, 100, None)], "100% of 100 B"),
        ] {
            assert_eq!(text(&pods).unwrap_or_default(), expected);
        }
    }
}
