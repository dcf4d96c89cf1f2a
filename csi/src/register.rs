//! Registration at kubelet: what the sidecar node-driver-registrar does.
//!
//! Kubelet watches `plugins_registry` in its directory. It connects to each socket there, asks who it is, connects to the endpoint that is
//! named, and tells whether it took the driver. It asks again when it starts anew, so the socket stays while the driver lives.

use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::names::DRIVER;
use crate::proto::registration::registration_server::Registration;
use crate::proto::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};

/// The name of the socket in `plugins_registry`.
pub const SOCKET: &str = "fs.stash.appscode.com-reg.sock";

/// The versions of CSI, as kubelet counts them: all of 1.x are this one.
const VERSIONS: [&str; 1] = ["1.0.0"];

/// What kubelet said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet.
    Waiting,
    /// It took the driver.
    Registered,
    /// It did not.
    Refused(String),
}

/// The Registration service.
#[derive(Debug)]
pub struct RegistrationService {
    endpoint: String,
    outcome: watch::Sender<Outcome>,
}

impl RegistrationService {
    /// Names `endpoint`, the driver's socket as kubelet sees it. What kubelet says is seen by the receiver.
    pub fn new(endpoint: String) -> (Self, watch::Receiver<Outcome>) {
        let (outcome, seen) = watch::channel(Outcome::Waiting);
        (Self { endpoint, outcome }, seen)
    }
}

#[tonic::async_trait]
impl Registration for RegistrationService {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: DRIVER.to_owned(),
            endpoint: self.endpoint.clone(),
            supported_versions: VERSIONS.map(str::to_owned).into(),
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus { plugin_registered, error } = request.into_inner();
        if plugin_registered {
            tracing::info!("kubelet took the driver");
            self.outcome.send_replace(Outcome::Registered);
        } else {
            tracing::error!(error, "kubelet did not take the driver");
            self.outcome.send_replace(Outcome::Refused(error));
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
