//! The sockets, and which service a call is for. tonic's codec runs over hyper's HTTP/2, which kube's client has anyway.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::server::NamedService;

use crate::authority;
use crate::controller::ControllerService;
use crate::identity::IdentityService;
use crate::node::NodeService;
use crate::proto::registration::registration_server::RegistrationServer;
use crate::proto::v1::controller_server::ControllerServer;
use crate::proto::v1::identity_server::IdentityServer;
use crate::proto::v1::node_server::NodeServer;
use crate::register::RegistrationService;

/// How many connections are served at once; others wait. Kubelet and the sidecars have a few each.
const CONNECTIONS: usize = 64;
/// How long clients have to take their answers when the driver stops.
const GRACE: Duration = Duration::from_secs(10);
/// The longest message that is read: CSI bounds each field, and all of them together are far less.
const MESSAGE_LIMIT: usize = 1 << 20;

/// What is served on a socket.
#[derive(Clone, Default)]
pub struct Services {
    identity: Option<IdentityServer<IdentityService>>,
    controller: Option<ControllerServer<ControllerService>>,
    node: Option<NodeServer<NodeService>>,
    registration: Option<RegistrationServer<RegistrationService>>,
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

impl Services {
    /// The driver's socket.
    pub fn of_driver(
        identity: IdentityService,
        controller: Option<ControllerService>,
        node: Option<NodeService>,
    ) -> Self {
        Self {
            identity: Some(IdentityServer::new(identity).max_decoding_message_size(MESSAGE_LIMIT)),
            controller: controller.map(|one| ControllerServer::new(one).max_decoding_message_size(MESSAGE_LIMIT)),
            node: node.map(|one| NodeServer::new(one).max_decoding_message_size(MESSAGE_LIMIT)),
            registration: None,
        }
    }

    /// The socket that kubelet finds.
    pub fn of_registration(registration: RegistrationService) -> Self {
        let registration = RegistrationServer::new(registration).max_decoding_message_size(MESSAGE_LIMIT);
        Self { registration: Some(registration), ..Self::default() }
    }

    async fn call(mut self, request: Request<Incoming>) -> Response<Body> {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default().to_owned();
        if let Some(identity) = self.identity.as_mut().filter(|_| is::<IdentityServer<IdentityService>>(&service)) {
            return identity.call(request).await.unwrap_or_else(|never| match never {});
        }
        if let Some(node) = self.node.as_mut().filter(|_| is::<NodeServer<NodeService>>(&service)) {
            return node.call(request).await.unwrap_or_else(|never| match never {});
        }
        if let Some(controller) =
            self.controller.as_mut().filter(|_| is::<ControllerServer<ControllerService>>(&service))
        {
            return controller.call(request).await.unwrap_or_else(|never| match never {});
        }
        let registration = self.registration.as_mut();
        if let Some(one) = registration.filter(|_| is::<RegistrationServer<RegistrationService>>(&service)) {
            return one.call(request).await.unwrap_or_else(|never| match never {});
        }
        tonic::Status::unimplemented(format!("the service {service} is not served here")).into_http()
    }
}

fn is<S: NamedService>(service: &str) -> bool {
    service == S::NAME
}

/// Answers calls until `stop` says so; calls that are under way are answered before this returns.
pub async fn serve(listener: UnixListener, services: Services, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = stopped(&mut stop) => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (services, stop) = (services.clone(), stop.clone());
                connections.spawn(async move {
                    connection(stream, services, stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::task::yield_now().await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Waits until somebody says stop, or is gone who could.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

async fn connection(stream: UnixStream, services: Services, mut stop: watch::Receiver<bool>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let services = services.clone();
        async move { Ok::<_, Infallible>(services.call(request).await) }
    });
    let stream = authority::readable(stream);
    let mut connection =
        std::pin::pin!(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            // A client that does not answer holds nobody up.
            tokio::time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}
