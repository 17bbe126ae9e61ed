//! The services asked by their clients, without a socket between them.

use api_grpc::health::{self, HealthCheckRequest, HealthClient, ServingStatus};
use api_grpc::version::version_server::{Version, VersionServer};
use api_grpc::version::{VersionResponse, version_client::VersionClient};
use api_grpc::{SERVICES, reflection_v1, reflection_v1alpha};
use tokio_stream::StreamExt;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::{Request, Response, Status};
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

struct Fixed;

#[tonic::async_trait]
impl Version for Fixed {
    async fn version(&self, _: Request<()>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse { version: "v1".into(), revision: "r".into() }))
    }
}

#[tokio::test]
async fn a_client_finds_the_services() {
    let mut client = VersionClient::new(VersionServer::new(Fixed));
    let answer = client.version(()).await.unwrap().into_inner();
    assert_eq!((answer.version.as_str(), answer.revision.as_str()), ("v1", "r"));

    let mut client = HealthClient::new(health::server());
    for service in ["", "containerd.services.tasks.v1.Tasks", "no such service"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = client.check(request.clone()).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
        let mut watch = client.watch(request).await.unwrap().into_inner();
        let first = watch.next().await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving, "{service:?}");
    }

    listed(reflection_v1().unwrap(), "grpc.reflection.v1.ServerReflection").await;
    listed(reflection_v1alpha().unwrap(), "grpc.reflection.v1alpha.ServerReflection").await;
}

/// Asks for the list of services. The messages of the two versions of the reflection service are
/// the same on the wire.
async fn listed<S>(service: S, own: &str)
where
    S: GrpcService<Body>,
    S::Error: std::fmt::Debug,
    S::ResponseBody: tonic::codegen::Body<Data = tonic::codegen::Bytes> + Send + 'static,
    <S::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    let mut grpc = tonic::client::Grpc::new(service);
    grpc.ready().await.unwrap();
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let path = format!("/{own}/ServerReflectionInfo").parse().unwrap();
    let codec = tonic_prost::ProstCodec::<_, ServerReflectionResponse>::new();
    let requests = Request::new(tokio_stream::once(request));
    let mut answers = grpc.streaming(requests, path, codec).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        answers.next().await.unwrap().unwrap().message_response
    else {
        panic!("{own} answers something else");
    };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.retain(|name| name != own);
    names.sort();
    assert_eq!(names, SERVICES, "{own}");
}
