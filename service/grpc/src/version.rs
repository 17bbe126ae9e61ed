//! `containerd.services.version.v1`.

use api_grpc::version::VersionResponse;
use api_grpc::version::version_server::Version;
use tonic::{Request, Response, Status};

/// Tells the version that we are compatible with, and our own build.
pub struct VersionService {
    /// The version.
    pub version: String,
    /// The revision.
    pub revision: String,
}

#[tonic::async_trait]
impl Version for VersionService {
    async fn version(&self, _request: Request<()>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse {
            version: self.version.clone(),
            revision: self.revision.clone(),
        }))
    }
}
