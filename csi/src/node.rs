//! The Node service: what kubelet asks of the driver on its node.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::daemon::max_volumes;
use crate::folder;
use crate::names::{MountName, VolumeId};
use crate::proto::v1::node_server::Node;
use crate::proto::v1::node_service_capability::{Rpc, Type, rpc};
use crate::proto::v1::volume_usage::Unit;
use crate::proto::v1::{
    NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse,
    NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, NodePublishVolumeRequest, NodePublishVolumeResponse,
    NodeServiceCapability, NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, VolumeCondition, VolumeUsage,
};
use crate::publish::{self, NodeContext};
use crate::status::{RpcError, answer};
use crate::target::{TargetError, TargetPath};

/// The Node service.
#[derive(Clone, Debug)]
pub struct NodeService {
    context: Arc<NodeContext>,
}

impl NodeService {
    /// Serves by these.
    pub fn new(context: Arc<NodeContext>) -> Self {
        Self { context }
    }

    /// Does `work` while nobody else works on the volume. It goes on when the caller hangs up, so that nothing is left half done and the
    /// volume is not let go before.
    async fn alone<T, W, F>(&self, volume: &VolumeId, work: W) -> Result<T, RpcError>
    where
        W: FnOnce(Arc<NodeContext>) -> F,
        F: Future<Output = Result<T, RpcError>> + Send + 'static,
        T: Send + 'static,
    {
        let busy = || RpcError::Busy(format!("the volume {volume}"));
        let held = self.context.locks.try_hold(volume.as_str()).ok_or_else(busy)?;
        let work = work(Arc::clone(&self.context));
        let task = tokio::spawn(async move {
            let done = work.await;
            drop(held);
            done
        });
        task.await.map_err(|_| RpcError::Lost)?
    }

    async fn publish(&self, request: NodePublishVolumeRequest) -> Result<NodePublishVolumeResponse, RpcError> {
        let request = publish::parse(request, &self.context.kubelet)?;
        let volume = request.volume.clone();
        self.alone(&volume, |context| async move { publish::publish(&context, &request).await }).await?;
        tracing::info!(volume = %volume, "published");
        Ok(NodePublishVolumeResponse {})
    }

    /// Needs neither the API server nor the pod, which may be gone.
    async fn unpublish(&self, request: NodeUnpublishVolumeRequest) -> Result<NodeUnpublishVolumeResponse, RpcError> {
        let volume = VolumeId::parse(&request.volume_id)?;
        let target = TargetPath::parse(&request.target_path, &self.context.kubelet)?;
        let name = MountName::of(&volume, &target);
        let work = |context: Arc<NodeContext>| async move {
            context.daemon.unmount(&name, &target).await?;
            folder::remove(&context.kubelet, &target)?;
            Ok(context.pins.remove(&name).await?)
        };
        self.alone(&volume, work).await?;
        tracing::info!(volume = %volume, "unpublished");
        Ok(NodeUnpublishVolumeResponse {})
    }

    /// Answers from tables: a stat of a mount that is in trouble might never come back.
    async fn stats(&self, request: NodeGetVolumeStatsRequest) -> Result<NodeGetVolumeStatsResponse, RpcError> {
        let volume = VolumeId::parse(&request.volume_id)?;
        let none = || RpcError::NoVolume(volume.to_string());
        let target = match TargetPath::parse(&request.volume_path, &self.context.kubelet) {
            Ok(target) => target,
            Err(error @ TargetError::Missing(_)) => return Err(error.into()),
            Err(TargetError::Outside { .. }) => return Err(none()),
        };
        let name = MountName::of(&volume, &target);
        let pin = self.context.pins.read(&name).await?;
        if pin.as_ref().is_some_and(|pin| pin.instead.is_some()) {
            let message = "no snapshot is shown: the RestoreSession has nothing for this pod".to_owned();
            let volume_condition = Some(VolumeCondition { abnormal: false, message });
            return Ok(NodeGetVolumeStatsResponse { usage: Vec::new(), volume_condition });
        }
        let mounted = self.context.daemon.list().await?.into_iter().find(|mounted| mounted.name == name);
        let mounted = mounted.ok_or_else(none)?;
        let chosen = pin.and_then(|pin| pin.chosen());
        let (bytes, files) = chosen.map_or((0, 0), |chosen| (chosen.bytes, chosen.files));
        // What is not written to is as full as it can be.
        let full = |unit: Unit, total: i64| VolumeUsage { available: 0, total, used: total, unit: unit.into() };
        let condition = match (mounted.trouble, mounted.snapshot) {
            (None, Some(snapshot)) => {
                VolumeCondition { abnormal: false, message: format!("snapshot {snapshot} is served") }
            }
            (None, None) => VolumeCondition { abnormal: true, message: "it is not known what is served".to_owned() },
            (Some(message), _) => VolumeCondition { abnormal: true, message },
        };
        Ok(NodeGetVolumeStatsResponse {
            usage: vec![full(Unit::Bytes, bytes), full(Unit::Inodes, files)],
            volume_condition: Some(condition),
        })
    }

    async fn info(&self) -> Result<NodeGetInfoResponse, RpcError> {
        let max_volumes_per_node = match self.context.max_volumes {
            Some(volumes) => volumes,
            None => max_volumes(self.context.daemon.stats().await?),
        };
        let node_id = self.context.node.clone();
        Ok(NodeGetInfoResponse { node_id, max_volumes_per_node, accessible_topology: None })
    }
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let volume = request.volume_id.clone();
        answer("NodePublishVolume", &volume, self.publish(request).await)
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let volume = request.volume_id.clone();
        answer("NodeUnpublishVolume", &volume, self.unpublish(request).await)
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let request = request.into_inner();
        let volume = request.volume_id.clone();
        answer("NodeGetVolumeStats", &volume, self.stats(request).await)
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capability = |one: rpc::Type| NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: one.into() })) };
        let capabilities = [rpc::Type::GetVolumeStats, rpc::Type::VolumeCondition].map(capability).into();
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Result<Response<NodeGetInfoResponse>, Status> {
        answer("NodeGetInfo", "", self.info().await)
    }
}

#[cfg(test)]
mod tests;
