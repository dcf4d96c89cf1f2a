//! The Identity service: who the driver is, and whether it is well.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::daemon::NodeDaemon;
use crate::names::DRIVER;
use crate::proto::v1::identity_server::Identity;
use crate::proto::v1::plugin_capability::{Service, Type, service};
use crate::proto::v1::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse,
    PluginCapability, ProbeRequest, ProbeResponse,
};

/// The Identity service.
#[derive(Clone, Debug)]
pub struct IdentityService {
    /// Whether the Controller service is served as well.
    pub controls: bool,
    /// The node daemon, if this is a node.
    pub daemon: Option<Arc<dyn NodeDaemon>>,
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: DRIVER.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..GetPluginInfoResponse::default()
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let controller = Service { r#type: service::Type::ControllerService.into() };
        let capability = PluginCapability { r#type: Some(Type::Service(controller)) };
        let capabilities = self.controls.then_some(capability).into_iter().collect();
        Ok(Response::new(GetPluginCapabilitiesResponse { capabilities }))
    }

    /// A node is ready when its daemon answers.
    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        let ready = match &self.daemon {
            Some(daemon) => daemon.stats().await.is_ok(),
            None => true,
        };
        Ok(Response::new(ProbeResponse { ready: Some(ready) }))
    }
}
