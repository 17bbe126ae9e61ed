//! What the measures call, without a client program between.

use std::path::Path;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use api_grpc::codec::Codec;
use api_grpc::containers::containers_client::ContainersClient;
use api_grpc::containers::{
    Container, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest,
};
use api_grpc::images::images_client::ImagesClient;
use api_grpc::images::{CreateImageRequest, DeleteImageRequest, Image, ListImagesRequest};
use api_grpc::leases::leases_client::LeasesClient;
use api_grpc::leases::{CreateRequest, DeleteRequest};
use api_grpc::snapshots::snapshots_client::SnapshotsClient;
use api_grpc::snapshots::{
    ListSnapshotsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use api_grpc::tasks::tasks_client::TasksClient;
use api_grpc::tasks::{
    CreateTaskRequest, DeleteProcessRequest, DeleteTaskRequest, ExecProcessRequest, KillRequest,
    ListTasksRequest, StartRequest, WaitRequest,
};
use api_grpc::version::version_client::VersionClient;
use api_grpc::{LEASE_HEADER, MAX_MESSAGE_SIZE, NAMESPACE_HEADER};
use api_shim::process::Status;
use api_shim::types::{Descriptor, Mount};
use api_shim::typeurl;
use e2e::World;
use e2e::world::IMAGE;
use http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

/// The snapshotter that all use.
const SNAPSHOTTER: &str = "overlayfs";

/// How long one call may take: more than anything here needs on a busy machine.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// The answer of `Images.List`, with each image as it came.
#[derive(Clone, PartialEq, prost::Message)]
struct UnreadImages {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    images: Vec<bytes::Bytes>,
}

/// A runtime for one thread of clients.
///
/// # Errors
///
/// The kernel gives no epoll instance.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Waits for all of them; gives the first error.
///
/// # Errors
///
/// That of one of them; the others are dropped.
pub async fn all(futures: Vec<impl Future<Output = Result<()>>>) -> Result<()> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        let mut index = 0;
        while index < futures.len() {
            match futures[index].as_mut().poll(context) {
                Poll::Pending => index += 1,
                Poll::Ready(Ok(())) => drop(futures.swap_remove(index)),
                Poll::Ready(error) => return Poll::Ready(error),
            }
        }
        if futures.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// One connection of one client.
#[derive(Clone, Debug)]
pub struct Lane {
    channel: Channel,
    namespace: MetadataValue<Ascii>,
}

impl Lane {
    /// Connects to the daemon of `world`.
    ///
    /// # Errors
    ///
    /// Nobody listens.
    pub async fn connect(world: &World) -> Result<Lane> {
        Lane::connect_to(&world.socket(), world.namespace()).await
    }

    /// So many connections to the daemon of `world`.
    ///
    /// # Errors
    ///
    /// Nobody listens.
    pub async fn connect_many(world: &World, count: usize) -> Result<Vec<Lane>> {
        let mut lanes = Vec::with_capacity(count);
        for _ in 0..count {
            lanes.push(Lane::connect(world).await?);
        }
        Ok(lanes)
    }

    /// Connects to `socket`.
    ///
    /// # Errors
    ///
    /// Nobody listens.
    pub async fn connect_to(socket: &Path, namespace: &str) -> Result<Lane> {
        let address = format!("unix://{}", socket.display());
        // As our own client. containerd sends frames of 16 KiB whatever is allowed.
        let endpoint = Endpoint::from_shared(address)?.max_frame_size(client::MAX_FRAME);
        let channel = endpoint.timeout(CALL_LIMIT).connect().await?;
        Ok(Lane { channel, namespace: namespace.parse()? })
    }

    /// `message` for the namespace of this client.
    pub fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert(NAMESPACE_HEADER, self.namespace.clone());
        request
    }

    fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_SIZE)
    }

    fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_SIZE)
    }

    fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_SIZE)
    }

    fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    /// The connection.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    fn leases(&self) -> LeasesClient<Channel> {
        LeasesClient::new(self.channel.clone())
    }

    /// The client of the version service.
    #[must_use]
    pub fn version(&self) -> VersionClient<Channel> {
        VersionClient::new(self.channel.clone())
    }

    /// Makes the record of a container: one write.
    ///
    /// # Errors
    ///
    /// The daemon's.
    pub async fn create_container(&self, container: Container) -> Result<()> {
        let message = CreateContainerRequest { container: Some(container) };
        self.containers().create(self.request(message)).await.context("Containers.Create")?;
        Ok(())
    }

    /// Deletes the record of a container: one write.
    ///
    /// # Errors
    ///
    /// The daemon's.
    pub async fn delete_container(&self, id: &str) -> Result<()> {
        let message = DeleteContainerRequest { id: id.to_owned() };
        self.containers().delete(self.request(message)).await.context("Containers.Delete")?;
        Ok(())
    }

    /// Makes a lease: one write.
    ///
    /// # Errors
    ///
    /// The daemon's.
    pub async fn create_lease(&self, id: &str) -> Result<()> {
        let message = CreateRequest { id: id.to_owned(), ..CreateRequest::default() };
        self.leases().create(self.request(message)).await.context("Leases.Create")?;
        Ok(())
    }

    /// Deletes a lease: one write.
    ///
    /// # Errors
    ///
    /// The daemon's.
    pub async fn delete_lease(&self, id: &str) -> Result<()> {
        let message = DeleteRequest { id: id.to_owned(), sync: false };
        self.leases().delete(self.request(message)).await.context("Leases.Delete")?;
        Ok(())
    }

    /// Deletes a lease, and waits until all that nothing else holds is gone.
    ///
    /// # Errors
    ///
    /// The daemon's.
    pub async fn delete_lease_sync(&self, id: &str) -> Result<()> {
        let message = DeleteRequest { id: id.to_owned(), sync: true };
        self.leases().delete(self.request(message)).await.context("Leases.Delete")?;
        Ok(())
    }

    /// Makes the record of an image with two labels: one write. Its content is nowhere.
    ///
    /// # Errors
    ///
    /// The daemon's.
    pub async fn create_image(&self, name: &str, number: usize) -> Result<()> {
        let labels = [("maker", "bench"), ("io.cri-containerd.image", "managed")];
        let image = Image {
            name: name.to_owned(),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            target: Some(Descriptor {
                media_type: "application/vnd.oci.image.index.v1+json".to_owned(),
                digest: format!("sha256:{number:064x}"),
                size: 1234,
                ..Descriptor::default()
            }),
            ..Image::default()
        };
        let message = CreateImageRequest { image: Some(image), ..CreateImageRequest::default() };
        self.images().create(self.request(message)).await.context("Images.Create")?;
        Ok(())
    }

    /// Deletes the record of an image: one write.
    ///
    /// # Errors
    ///
    /// The daemon's.
    pub async fn delete_image(&self, name: &str) -> Result<()> {
        let message = DeleteImageRequest { name: name.to_owned(), ..DeleteImageRequest::default() };
        self.images().delete(self.request(message)).await.context("Images.Delete")?;
        Ok(())
    }

    /// Makes and removes an active snapshot, under the lease of the same name: two writes.
    ///
    /// # Errors
    ///
    /// The daemon's.
    pub async fn snapshot(&self, id: &str, template: &Template) -> Result<()> {
        self.prepare(id, template).await?;
        self.remove_snapshot(id).await
    }

    async fn remove_snapshot(&self, id: &str) -> Result<()> {
        let message =
            RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: id.to_owned() };
        self.snapshots().remove(self.request(message)).await.context("Snapshots.Remove")?;
        Ok(())
    }

    /// How many images a list has. They are counted as they come, not read: that is the client's work,
    /// which makes all daemons look alike.
    ///
    /// # Errors
    ///
    /// The daemon's.
    pub async fn count_images(&self, filters: Vec<String>) -> Result<usize> {
        let mut client =
            tonic::client::Grpc::new(self.channel()).max_decoding_message_size(MAX_MESSAGE_SIZE);
        client.ready().await?;
        let path = PathAndQuery::from_static("/containerd.services.images.v1.Images/List");
        let codec = Codec::<ListImagesRequest, UnreadImages>::default();
        let answer = client.unary(self.request(ListImagesRequest { filters }), path, codec).await;
        Ok(answer.context("Images.List")?.into_inner().images.len())
    }

    /// How many committed snapshots there are.
    ///
    /// # Errors
    ///
    /// The daemon's.
    pub async fn committed_snapshots(&self) -> Result<usize> {
        let filters = vec!["kind==committed".to_owned()];
        let message = ListSnapshotsRequest { snapshotter: SNAPSHOTTER.to_owned(), filters };
        let mut stream = self.snapshots().list(self.request(message)).await?.into_inner();
        let mut count = 0;
        while let Some(part) = stream.message().await? {
            count += part.info.len();
        }
        Ok(count)
    }

    /// How many tasks run.
    ///
    /// # Errors
    ///
    /// The daemon's.
    pub async fn running_tasks(&self) -> Result<usize> {
        let message = ListTasksRequest::default();
        let tasks = self.tasks().list(self.request(message)).await?.into_inner().tasks;
        Ok(tasks.iter().filter(|task| task.status() == Status::Running).count())
    }

    async fn prepare(&self, id: &str, template: &Template) -> Result<Vec<Mount>> {
        let message = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: id.to_owned(),
            parent: template.parent.clone(),
            ..PrepareSnapshotRequest::default()
        };
        let mut request = self.request(message);
        request.metadata_mut().insert(LEASE_HEADER, id.parse()?);
        let answer = self.snapshots().prepare(request).await;
        Ok(answer.context("Snapshots.Prepare")?.into_inner().mounts)
    }

    /// Makes a container with its snapshot and starts it. Returns before its end.
    ///
    /// # Errors
    ///
    /// The daemon's.
    pub async fn start(&self, id: &str, template: &Template) -> Result<()> {
        self.create(id, template).await?;
        self.start_created(id).await
    }

    /// Makes a container with its snapshot and its task, which waits to be started. Gives the time
    /// that the task took: the start of the shim, and the runtime's create.
    ///
    /// # Errors
    ///
    /// The daemon's.
    pub async fn create(&self, id: &str, template: &Template) -> Result<Duration> {
        // Until the record of the container refers to it, the snapshot is held by a lease.
        self.create_lease(id).await?;
        let rootfs = self.prepare(id, template).await?;
        self.create_container(template.container(id)).await?;
        self.delete_lease(id).await?;
        let message = CreateTaskRequest {
            container_id: id.to_owned(),
            rootfs,
            ..CreateTaskRequest::default()
        };
        let begin = std::time::Instant::now();
        self.tasks().create(self.request(message)).await.context("Tasks.Create")?;
        Ok(begin.elapsed())
    }

    /// Creates and starts the task of a container whose record is there, with `output` as its output.
    ///
    /// # Errors
    ///
    /// The daemon's.
    pub async fn start_in_bundle(&self, id: &str, output: &str) -> Result<()> {
        let message = CreateTaskRequest {
            container_id: id.to_owned(),
            stdout: output.to_owned(),
            ..CreateTaskRequest::default()
        };
        self.tasks().create(self.request(message)).await.context("Tasks.Create")?;
        self.start_created(id).await
    }

    /// Kills all processes of a task.
    ///
    /// # Errors
    ///
    /// The daemon's.
    pub async fn kill(&self, id: &str) -> Result<()> {
        let message = KillRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
            signal: 9,
            all: true,
        };
        self.tasks().kill(self.request(message)).await.context("Tasks.Kill")?;
        Ok(())
    }

    /// Waits for the end of a task, and deletes it and the record of its container.
    ///
    /// # Errors
    ///
    /// The daemon's.
    pub async fn end(&self, id: &str) -> Result<()> {
        let message = WaitRequest { container_id: id.to_owned(), exec_id: String::new() };
        self.tasks().wait(self.request(message)).await.context("Tasks.Wait")?;
        let message = DeleteTaskRequest { container_id: id.to_owned() };
        self.tasks().delete(self.request(message)).await.context("Tasks.Delete")?;
        self.delete_container(id).await
    }

    async fn start_created(&self, id: &str) -> Result<()> {
        let message = StartRequest { container_id: id.to_owned(), exec_id: String::new() };
        self.tasks().start(self.request(message)).await.context("Tasks.Start")?;
        Ok(())
    }

    /// Runs `true` in a container that runs: exec, start, wait, delete.
    ///
    /// # Errors
    ///
    /// The daemon's, or it does not end with 0.
    pub async fn exec(&self, id: &str, exec: &str) -> Result<()> {
        const SPEC: &[u8] =
            br#"{"args":["/bin/busybox","true"],"cwd":"/","user":{"uid":0,"gid":0}}"#;
        let (container_id, exec_id) = (id.to_owned(), exec.to_owned());
        let mut tasks = self.tasks();
        let message = ExecProcessRequest {
            container_id: container_id.clone(),
            exec_id: exec_id.clone(),
            spec: Some(typeurl::encode_json(typeurl::PROCESS, SPEC)),
            ..ExecProcessRequest::default()
        };
        tasks.exec(self.request(message)).await.context("Tasks.Exec")?;
        let message = StartRequest { container_id: container_id.clone(), exec_id: exec_id.clone() };
        tasks.start(self.request(message)).await.context("Tasks.Start")?;
        let message = WaitRequest { container_id: container_id.clone(), exec_id: exec_id.clone() };
        let status = tasks.wait(self.request(message)).await.context("Tasks.Wait")?.into_inner();
        let message = DeleteProcessRequest { container_id, exec_id };
        tasks.delete_process(self.request(message)).await.context("Tasks.DeleteProcess")?;
        if status.exit_status != 0 {
            bail!("exec {exec} ended with {}", status.exit_status);
        }
        Ok(())
    }

    /// Ends and removes a container that runs or waits to be started.
    ///
    /// # Errors
    ///
    /// The daemon's.
    pub async fn remove(&self, id: &str) -> Result<()> {
        self.kill(id).await?;
        let mut tasks = self.tasks();
        let message = WaitRequest { container_id: id.to_owned(), exec_id: String::new() };
        tasks.wait(self.request(message)).await.context("Tasks.Wait")?;
        let message = DeleteTaskRequest { container_id: id.to_owned() };
        tasks.delete(self.request(message)).await.context("Tasks.Delete")?;
        self.remove_snapshot(id).await?;
        self.delete_container(id).await
    }

    /// The whole life of a container whose process ends by itself, as clients lead it: lease,
    /// snapshot, record, create, wait, start, delete, and nothing is left. The snapshot goes before
    /// the record that keeps it from being collected.
    ///
    /// # Errors
    ///
    /// The daemon's, or the process does not end with 0.
    pub async fn cycle(&self, id: &str, template: &Template) -> Result<()> {
        self.create(id, template).await?;
        let message = WaitRequest { container_id: id.to_owned(), exec_id: String::new() };
        let mut tasks = self.tasks();
        let wait = tasks.wait(self.request(message));
        let start = self.start_created(id);
        let (wait, start) = tokio::join!(wait, start);
        start?;
        let status = wait.context("Tasks.Wait")?.into_inner().exit_status;
        let message = DeleteTaskRequest { container_id: id.to_owned() };
        self.tasks().delete(self.request(message)).await.context("Tasks.Delete")?;
        self.remove_snapshot(id).await?;
        self.delete_container(id).await?;
        if status != 0 {
            bail!("container {id} ended with {status}");
        }
        Ok(())
    }
}

/// A container as `ctr` makes it, to make others like it.
#[derive(Clone, Debug)]
pub struct Template {
    container: Container,
    parent: String,
}

/// The id of the container that a template is taken from.
const TEMPLATE_ID: &str = "template";

impl Template {
    /// Takes one of the small image that runs `command`; nothing of it stays in `world`.
    ///
    /// # Errors
    ///
    /// `ctr` or the daemon fails.
    pub async fn take(world: &World, lane: &Lane, command: &str) -> Result<Template> {
        world.ctr(&format!("containers create {IMAGE} {TEMPLATE_ID} {command}"))?;
        let message = GetContainerRequest { id: TEMPLATE_ID.to_owned() };
        let answer = lane.containers().get(lane.request(message)).await?.into_inner();
        let container = answer.container.context("no container in the answer")?;
        let message = StatSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: container.snapshot_key.clone(),
        };
        let answer = lane.snapshots().stat(lane.request(message)).await?.into_inner();
        let parent = answer.info.context("no snapshot in the answer")?.parent;
        world.ctr(&format!("containers rm {TEMPLATE_ID}"))?;
        Ok(Template { container, parent })
    }

    /// The record of a container `id` like this one.
    #[must_use]
    pub fn container(&self, id: &str) -> Container {
        let mut container = self.container.clone();
        id.clone_into(&mut container.id);
        id.clone_into(&mut container.snapshot_key);
        container.created_at = None;
        container.updated_at = None;
        if let Some(spec) = &mut container.spec {
            let text = String::from_utf8_lossy(&spec.value);
            // The control group is the only place in a spec of `ctr` that has the id.
            spec.value = text.replace(&format!("/{TEMPLATE_ID}\""), &format!("/{id}\"")).into();
        }
        container
    }
}
