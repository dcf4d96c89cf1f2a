//! The Controller service: volumes for claims, by external-provisioner or whoever else calls.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tonic::{Request, Response, Status};

use crate::cluster::Cluster;
use crate::lock::Locks;
use crate::names::{DRIVER, VolumeId};
use crate::proto::v1::controller_server::Controller;
use crate::proto::v1::controller_service_capability::{Rpc, Type, rpc};
use crate::proto::v1::validate_volume_capabilities_response::Confirmed;
use crate::proto::v1::{
    ControllerGetCapabilitiesRequest, ControllerGetCapabilitiesResponse, ControllerServiceCapability,
    CreateVolumeRequest, CreateVolumeResponse, DeleteVolumeRequest, DeleteVolumeResponse,
    ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse, Volume,
};
use crate::provision::{self, CreateRequest, Made, ProvisionError};
use crate::status::{RpcError, answer};

/// How many volumes are remembered that may have no object yet. An object is made within seconds.
const REMEMBERED: usize = 4096;

/// The Controller service. A volume is an object of the API server; what was promised and has none yet is remembered here.
#[derive(Clone, Debug)]
pub struct ControllerService {
    cluster: Arc<dyn Cluster>,
    locks: Locks,
    made: Arc<Mutex<BTreeMap<String, (String, Made)>>>,
}

impl ControllerService {
    /// Serves by these.
    pub fn new(cluster: Arc<dyn Cluster>) -> Self {
        Self { cluster, locks: Locks::default(), made: Arc::default() }
    }

    /// Promises a volume; the same promise again for the same request.
    ///
    /// # Errors
    ///
    /// It cannot be, or the name is that of another volume.
    pub async fn create(&self, request: CreateVolumeRequest) -> Result<Volume, RpcError> {
        let request = provision::parse(&request)?;
        let busy = || RpcError::Busy(format!("the volume {}", request.name));
        let held = self.locks.try_hold(&request.name).ok_or_else(busy)?;
        let made = self.make(&request).await?;
        drop(held);
        let volume_id = request.name;
        Ok(Volume { volume_id, capacity_bytes: made.bytes, volume_context: made.context, ..Volume::default() })
    }

    async fn make(&self, request: &CreateRequest) -> Result<Made, RpcError> {
        let exists = || ProvisionError::Exists(request.name.clone());
        if let Some((asked, made)) = self.made.lock().get(&request.name) {
            return if *asked == request.asked { Ok(made.clone()) } else { Err(exists().into()) };
        }
        // Made before this process: its snapshot stays what it was.
        if let Some(made) = self.of_object(&request.name).await? {
            return Ok(Made { bytes: request.bytes, ..made });
        }
        let made = provision::make(self.cluster.as_ref(), request).await?;
        tracing::info!(volume = request.name, snapshot = made.context.get(crate::volume::SNAPSHOT), "made");
        let mut all = self.made.lock();
        if all.len() >= REMEMBERED {
            all.pop_first();
        }
        all.insert(request.name.clone(), (request.asked.clone(), made.clone()));
        Ok(made)
    }

    /// Returns what the object of a volume says, if there is one of this driver.
    async fn of_object(&self, id: &str) -> Result<Option<Made>, RpcError> {
        if !crate::names::is_object_name(id) {
            return Ok(None);
        }
        let source = self.cluster.volume(id).await?.and_then(|volume| volume.spec?.csi);
        let ours = source.filter(|source| source.driver == DRIVER && source.volume_handle == id);
        Ok(ours.map(|source| Made { bytes: 0, context: source.volume_attributes.unwrap_or_default() }))
    }

    fn delete(&self, request: &DeleteVolumeRequest) -> Result<DeleteVolumeResponse, RpcError> {
        let id = VolumeId::parse(&request.volume_id)?;
        let busy = || RpcError::Busy(format!("the volume {id}"));
        let held = self.locks.try_hold(id.as_str()).ok_or_else(busy)?;
        self.made.lock().remove(id.as_str());
        drop(held);
        Ok(DeleteVolumeResponse {})
    }

    async fn validate(
        &self,
        request: ValidateVolumeCapabilitiesRequest,
    ) -> Result<ValidateVolumeCapabilitiesResponse, RpcError> {
        let id = VolumeId::parse(&request.volume_id)?;
        if request.volume_capabilities.is_empty() {
            return Err(crate::capability::CapabilityError::Missing.into());
        }
        let remembered = self.made.lock().get(id.as_str()).map(|(_, made)| made.clone());
        let made = match remembered {
            Some(made) => Some(made),
            None => self.of_object(id.as_str()).await?,
        };
        let made = made.ok_or_else(|| RpcError::NoVolume(id.to_string()))?;
        let problem = match provision::check_capabilities(&request.volume_capabilities) {
            Err(problem) => Some(problem.to_string()),
            Ok(_) if !request.volume_context.is_empty() && request.volume_context != made.context => {
                Some("volume_context is not that of the volume".to_owned())
            }
            Ok(_) if !request.mutable_parameters.is_empty() => Some("there are no mutable parameters".to_owned()),
            Ok(_) => None,
        };
        Ok(match problem {
            Some(message) => ValidateVolumeCapabilitiesResponse { confirmed: None, message },
            None => ValidateVolumeCapabilitiesResponse {
                confirmed: Some(Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    mutable_parameters: request.mutable_parameters,
                }),
                message: String::new(),
            },
        })
    }
}

#[tonic::async_trait]
impl Controller for ControllerService {
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        let request = request.into_inner();
        let volume = request.name.clone();
        let made = self.create(request).await;
        answer("CreateVolume", &volume, made.map(|made| CreateVolumeResponse { volume: Some(made) }))
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        let request = request.into_inner();
        answer("DeleteVolume", &request.volume_id, self.delete(&request))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        let request = request.into_inner();
        let volume = request.volume_id.clone();
        answer("ValidateVolumeCapabilities", &volume, self.validate(request).await)
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        let create = Rpc { r#type: rpc::Type::CreateDeleteVolume.into() };
        let capabilities = vec![ControllerServiceCapability { r#type: Some(Type::Rpc(create)) }];
        Ok(Response::new(ControllerGetCapabilitiesResponse { capabilities }))
    }
}
