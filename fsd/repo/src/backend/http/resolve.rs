//! Names of hosts, where what they lead to is judged: a name may lead to the machine or to its link, and an address that was
//! judged is the one that is connected to.

use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::super::connect::Refused;

/// All that a name leads to is refused. Which address that is, is not said: whoever may write a name would learn what it leads to here.
#[derive(Debug, thiserror::Error)]
#[error("the name leads to an address that is refused")]
pub(super) struct RefusedName;

/// Resolves as the system does, and leaves out what is refused.
pub(super) struct Judged {
    refused: Refused,
}

impl Judged {
    pub(super) fn new(refused: Refused) -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self { refused })
    }
}

impl Resolve for Judged {
    fn resolve(&self, name: Name) -> Resolving {
        let refused = self.refused.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let (kept, left_out): (Vec<SocketAddr>, Vec<_>) =
                found.partition(|address| !refused(name.as_str(), address.ip()));
            if kept.is_empty() && !left_out.is_empty() {
                return Err(RefusedName.into());
            }
            Ok(Box::new(kept.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn test_a_name_leads_nowhere_where_its_addresses_are_refused() {
        let lookup = async |refused: Refused| {
            let found = Judged::new(refused).resolve("localhost".parse().unwrap()).await;
            found.map(Iterator::count).map_err(|error| error.to_string())
        };
        assert!(lookup(Arc::new(|_, _| false)).await.unwrap() > 0);
        let error = lookup(Arc::new(|name, address| name == "localhost" && address.is_loopback())).await.unwrap_err();
        assert!(error.contains("refused") && !error.contains("127."), "{error}");
    }
}
