//! `containerd.services.images.v1`.

use api_grpc::images::images_server::Images;
use api_grpc::images::{
    CreateImageRequest, CreateImageResponse, DeleteImageRequest, GetImageRequest, GetImageResponse,
    Image as Message, ListImagesRequest, ListImagesResponse, UpdateImageRequest,
    UpdateImageResponse,
};
use api_shim::events::{ImageCreate, ImageDelete, ImageUpdate};
use base_ident::filter::Filter;
use store_metadata::{Image, ImageChange};
use tonic::{Request, Response, Status};

use crate::Backends;
use crate::convert::{
    descriptor, descriptor_message, optional_digest, paths, required, status, time, timestamp,
};
use crate::request::scope;

/// Records of images.
pub struct ImagesService(pub Backends);

fn message(image: Image) -> Message {
    Message {
        name: image.name,
        labels: image.labels,
        target: Some(descriptor_message(image.target)),
        created_at: timestamp(image.created_at),
        updated_at: timestamp(image.updated_at),
    }
}

#[tonic::async_trait]
impl Images for ImagesService {
    async fn get(
        &self,
        request: Request<GetImageRequest>,
    ) -> Result<Response<GetImageResponse>, Status> {
        let namespace = scope(&request)?.namespace;
        let name = &request.get_ref().name;
        let image = self.0.metadata.view(|tx| Ok(tx.image(&namespace, name)?)).map_err(status)?;
        Ok(Response::new(GetImageResponse { image: Some(message(image)) }))
    }

    async fn list(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let namespace = scope(&request)?.namespace;
        let filter = Filter::parse_all(&request.get_ref().filters).map_err(status)?;
        let mut images = Vec::new();
        self.0
            .metadata
            .view(|tx| Ok(tx.each_image(&namespace, &filter, |image| images.push(message(image)))?))
            .map_err(status)?;
        Ok(Response::new(ListImagesResponse { images }))
    }

    async fn create(
        &self,
        request: Request<CreateImageRequest>,
    ) -> Result<Response<CreateImageResponse>, Status> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let asked = required(request.image, "image")?;
        if asked.name.is_empty() {
            return Err(status(base_errors::Error::invalid_argument("image.Name required")));
        }
        let epoch = time(request.source_date_epoch);
        let now = std::time::SystemTime::now();
        let image = Image {
            target: descriptor(asked.target.unwrap_or_default()).map_err(|bad| {
                Status::invalid_argument(format!("image.Target.Digest {}", bad.message()))
            })?,
            name: asked.name,
            labels: asked.labels,
            created_at: now,
            updated_at: now,
        };
        let namespace = scope.namespace.clone();
        let created = self
            .0
            .metadata
            .update(move |tx| Ok(tx.create_image(&scope, image, epoch)?))
            .await
            .map_err(status)?;
        let event = ImageCreate { name: created.name.clone(), labels: created.labels.clone() };
        self.0.notifier.publish(&namespace, "/images/create", &event);
        Ok(Response::new(CreateImageResponse { image: Some(message(created)) }))
    }

    async fn update(
        &self,
        request: Request<UpdateImageRequest>,
    ) -> Result<Response<UpdateImageResponse>, Status> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let asked = required(request.image, "image")?;
        if asked.name.is_empty() {
            return Err(status(base_errors::Error::invalid_argument("image.Name required")));
        }
        let epoch = time(request.source_date_epoch);
        let mask = paths(request.update_mask);
        let target = asked.target.unwrap_or_default();
        let change = ImageChange {
            name: asked.name,
            labels: asked.labels,
            annotations: target.annotations.clone(),
            target: if target.digest.is_empty() { None } else { Some(descriptor(target)?) },
        };
        let namespace = scope.namespace.clone();
        let updated = self
            .0
            .metadata
            .update(move |tx| Ok(tx.update_image(&scope, &change, &mask, epoch)?))
            .await
            .map_err(status)?;
        let event = ImageUpdate { name: updated.name.clone(), labels: updated.labels.clone() };
        self.0.notifier.publish(&namespace, "/images/update", &event);
        Ok(Response::new(UpdateImageResponse { image: Some(message(updated)) }))
    }

    async fn delete(&self, request: Request<DeleteImageRequest>) -> Result<Response<()>, Status> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let target = match &request.target {
            Some(target) => optional_digest(&target.digest)?,
            None => None,
        };
        let namespace = scope.namespace.clone();
        let event = ImageDelete { name: request.name.clone() };
        self.0
            .metadata
            .update(move |tx| Ok(tx.delete_image(&scope, &request.name, target.as_ref())?))
            .await
            .map_err(status)?;
        self.0.notifier.publish(&namespace, "/images/delete", &event);
        if request.sync {
            self.0.collector.collect().await.map_err(status)?;
        }
        Ok(Response::new(()))
    }
}
