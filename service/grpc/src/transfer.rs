//! `containerd.services.transfer.v1`: finds out what is to be moved where, and has it done.

use api_grpc::transfer::TransferRequest;
use api_grpc::transfer::transfer_server::Transfer;
use api_grpc::transfer_types::{
    ImageExportStream, ImageImportStream, ImageStore, OciRegistry, Progress as ProgressMessage,
};
use api_shim::{types, typeurl};
use base_errors::Error;
use image_transfer::{
    ExportOptions, ImageReference, ImageStoreOptions, ImportOptions, Platform, Progress,
    ProgressSender, Transferrer, UnpackConfiguration,
};
use prost_types::Any;
use store_metadata::Scope;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::convert::{descriptor_message, required, size, status};
use crate::request::scope;
use crate::streaming::{self, Streams, Taken};

/// Progress events that wait for the client.
const EVENTS: usize = 64;

/// Blocks of an export that wait for the client.
const BLOCKS: usize = 8;

/// Moves images between archives and the store.
pub struct TransferService {
    /// Who moves.
    pub transferrer: Transferrer,
    /// Where the bytes of clients are.
    pub streams: Streams,
}

/// One end of a transfer.
enum End {
    Store(ImageStoreOptions),
    Import(ImageImportStream),
    Export(ImageExportStream),
    Registry,
}

impl End {
    fn decode(any: &Any) -> Result<End, Status> {
        let decode = |error: typeurl::TypeUrlError| Status::invalid_argument(error.to_string());
        if typeurl::is::<ImageStore>(any) {
            Ok(End::Store(store(typeurl::decode(any).map_err(decode)?)))
        } else if typeurl::is::<ImageImportStream>(any) {
            Ok(End::Import(typeurl::decode(any).map_err(decode)?))
        } else if typeurl::is::<ImageExportStream>(any) {
            Ok(End::Export(typeurl::decode(any).map_err(decode)?))
        } else if typeurl::is::<OciRegistry>(any) {
            Ok(End::Registry)
        } else {
            Err(Status::unimplemented(format!("transfer of {}: not implemented", any.type_url)))
        }
    }

    /// How containerd names it in errors.
    fn name(&self) -> &'static str {
        match self {
            End::Store(_) => "*image.Store",
            End::Import(_) => "*archive.ImageImportStream",
            End::Export(_) => "*archive.ImageExportStream",
            End::Registry => "*registry.OCIRegistry",
        }
    }
}

fn platform(message: types::Platform) -> Platform {
    Platform {
        architecture: message.architecture,
        os: message.os,
        os_version: message.os_version,
        os_features: (!message.os_features.is_empty()).then_some(message.os_features),
        variant: message.variant,
    }
}

fn store(message: ImageStore) -> ImageStoreOptions {
    ImageStoreOptions {
        name: message.name,
        labels: message.labels,
        platforms: message.platforms.into_iter().map(platform).collect(),
        all_metadata: message.all_metadata,
        manifest_limit: message.manifest_limit,
        extra_references: message
            .extra_references
            .into_iter()
            .map(|reference| ImageReference {
                name: reference.name,
                is_prefix: reference.is_prefix,
                allow_overwrite: reference.allow_overwrite,
                add_digest: reference.add_digest,
                skip_named_digest: reference.skip_named_digest,
            })
            .collect(),
        unpacks: message
            .unpacks
            .into_iter()
            .map(|unpack| UnpackConfiguration {
                platform: platform(unpack.platform.unwrap_or_default()),
                snapshotter: unpack.snapshotter,
            })
            .collect(),
    }
}

fn progress_message(progress: Progress) -> Any {
    typeurl::encode(&ProgressMessage {
        event: progress.event,
        name: progress.name,
        parents: progress.parents,
        progress: size(progress.progress),
        total: size(progress.total),
        desc: progress.descriptor.map(descriptor_message),
    })
}

/// Sends events to the client until the transfer drops its sender.
async fn tell(stream: Taken, mut events: mpsc::Receiver<Progress>) {
    let mut listening = true;
    while let Some(event) = events.recv().await {
        // A client that stops listening does not stop the transfer.
        listening = listening && stream.outgoing.send(Ok(progress_message(event))).await.is_ok();
    }
}

impl TransferService {
    async fn run(
        &self,
        scope: &Scope,
        source: End,
        destination: End,
        progress: &ProgressSender,
    ) -> Result<(), Status> {
        match (source, destination) {
            (End::Import(archive), End::Store(store)) => {
                let taken = self.streams.take(&scope.namespace, &archive.stream).map_err(status)?;
                let bytes = ReceiverStream::new(streaming::receive(taken));
                let options = ImportOptions {
                    media_type: archive.media_type,
                    force_compress: archive.force_compress,
                };
                self.transferrer
                    .import(scope, bytes, &options, &store, progress)
                    .await
                    .map_err(status)?;
            }
            (End::Store(store), End::Export(archive)) => {
                let taken = self.streams.take(&scope.namespace, &archive.stream).map_err(status)?;
                let options = ExportOptions {
                    platforms: archive.platforms.into_iter().map(platform).collect(),
                    all_platforms: archive.all_platforms,
                    skip_compatibility_manifest: archive.skip_compatibility_manifest,
                    skip_non_distributable: archive.skip_non_distributable,
                };
                let (blocks, source) = mpsc::channel(BLOCKS);
                let made = self.transferrer.export(scope, &store, &options, blocks, progress);
                let (made, sent) = futures_util::join!(made, streaming::send(taken, source));
                made.map_err(status)?;
                sent.map_err(status)?;
            }
            (End::Store(from), End::Store(to)) => {
                self.transferrer.tag(scope, &from, &to).await.map_err(status)?;
            }
            (source, destination) => {
                return Err(status(Error::not_implemented(format!(
                    "method Transfer not implemented for {} to {}",
                    source.name(),
                    destination.name()
                ))));
            }
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Transfer for TransferService {
    async fn transfer(&self, request: Request<TransferRequest>) -> Result<Response<()>, Status> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let source = End::decode(&required(request.source, "source")?)?;
        let destination = End::decode(&required(request.destination, "destination")?)?;
        let events = request.options.unwrap_or_default().progress_stream;
        if events.is_empty() {
            self.run(&scope, source, destination, &ProgressSender::default()).await?;
            return Ok(Response::new(()));
        }
        let stream = self.streams.take(&scope.namespace, &events).map_err(status)?;
        let (sender, receiver) = mpsc::channel(EVENTS);
        let done = async {
            // The sender ends with this block, and with it the telling.
            let progress = ProgressSender::new(sender);
            self.run(&scope, source, destination, &progress).await
        };
        let (done, ()) = futures_util::join!(done, tell(stream, receiver));
        done?;
        Ok(Response::new(()))
    }
}
