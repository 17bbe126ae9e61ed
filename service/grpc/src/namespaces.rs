//! `containerd.services.namespaces.v1`.

use api_grpc::namespaces::namespaces_server::Namespaces;
use api_grpc::namespaces::{
    CreateNamespaceRequest, CreateNamespaceResponse, DeleteNamespaceRequest, GetNamespaceRequest,
    GetNamespaceResponse, ListNamespacesRequest, ListNamespacesResponse, Namespace as Message,
    UpdateNamespaceRequest, UpdateNamespaceResponse,
};
use api_shim::events::{NamespaceCreate, NamespaceDelete, NamespaceUpdate};
use base_ident::Namespace;
use store_metadata::NamespaceRecord;
use tonic::{Request, Response, Status};

use crate::Backends;
use crate::convert::{paths, required, status};

/// Namespaces and their labels.
pub struct NamespacesService(pub Backends);

fn message(record: NamespaceRecord) -> Option<Message> {
    Some(Message { name: record.name, labels: record.labels })
}

fn name(text: &str) -> Result<Namespace, Status> {
    // A missing name is a bad argument here: the namespace is the object, not the scope.
    base_ident::validate_identifier(text).map_err(status)?;
    Namespace::new(text).map_err(status)
}

#[tonic::async_trait]
impl Namespaces for NamespacesService {
    async fn get(
        &self,
        request: Request<GetNamespaceRequest>,
    ) -> Result<Response<GetNamespaceResponse>, Status> {
        let name = name(&request.get_ref().name)?;
        let labels = self.0.metadata.view(|tx| Ok(tx.namespace_labels(&name)?)).map_err(status)?;
        let namespace = Some(Message { name: name.to_string(), labels });
        Ok(Response::new(GetNamespaceResponse { namespace }))
    }

    async fn list(
        &self,
        _request: Request<ListNamespacesRequest>,
    ) -> Result<Response<ListNamespacesResponse>, Status> {
        let records = self.0.metadata.view(|tx| Ok(tx.namespaces()?)).map_err(status)?;
        let namespaces = records.into_iter().filter_map(message).collect();
        Ok(Response::new(ListNamespacesResponse { namespaces }))
    }

    async fn create(
        &self,
        request: Request<CreateNamespaceRequest>,
    ) -> Result<Response<CreateNamespaceResponse>, Status> {
        let asked = required(request.into_inner().namespace, "namespace")?;
        let name = name(&asked.name)?;
        let labels = asked.labels.clone();
        let created = name.clone();
        self.0
            .metadata
            .update(move |tx| Ok(tx.create_namespace(&created, &labels)?))
            .await
            .map_err(status)?;
        let event = NamespaceCreate { name: asked.name.clone(), labels: asked.labels.clone() };
        self.0.notifier.publish(&name, "/namespaces/create", &event);
        Ok(Response::new(CreateNamespaceResponse { namespace: Some(asked) }))
    }

    async fn update(
        &self,
        request: Request<UpdateNamespaceRequest>,
    ) -> Result<Response<UpdateNamespaceResponse>, Status> {
        let request = request.into_inner();
        let asked = required(request.namespace, "namespace")?;
        let name = name(&asked.name)?;
        let (mask, labels) = (paths(request.update_mask), asked.labels);
        let updated = name.clone();
        let record = self
            .0
            .metadata
            .update(move |tx| Ok(tx.update_namespace(&updated, &labels, &mask)?))
            .await
            .map_err(status)?;
        let event = NamespaceUpdate { name: record.name.clone(), labels: record.labels.clone() };
        self.0.notifier.publish(&name, "/namespaces/update", &event);
        Ok(Response::new(UpdateNamespaceResponse { namespace: message(record) }))
    }

    async fn delete(
        &self,
        request: Request<DeleteNamespaceRequest>,
    ) -> Result<Response<()>, Status> {
        let name = name(&request.get_ref().name)?;
        let deleted = name.clone();
        self.0
            .metadata
            .update(move |tx| Ok(tx.delete_namespace(&deleted)?))
            .await
            .map_err(status)?;
        let event = NamespaceDelete { name: name.to_string() };
        self.0.notifier.publish(&name, "/namespaces/delete", &event);
        Ok(Response::new(()))
    }
}
