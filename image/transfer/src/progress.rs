//! What a transfer tells while it runs.

use std::sync::Arc;

use base_ident::Descriptor;
use store_metadata::Image;
use tokio::sync::mpsc;

/// One event; the fields are those of `containerd.types.transfer.Progress`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What happens; containerd's words.
    pub event: String,
    /// The image or the reference key of content.
    pub name: String,
    /// Reference keys of what it is part of.
    pub parents: Vec<String>,
    /// Bytes done.
    pub progress: u64,
    /// Bytes in all.
    pub total: u64,
    /// The content.
    pub descriptor: Option<Descriptor>,
}

/// Takes progress events. They are hints: when the channel is full an event that only counts bytes
/// is dropped, so that a slow reader never slows a transfer; the others wait.
#[derive(Clone, Debug, Default)]
pub struct ProgressSender(Option<mpsc::Sender<Progress>>);

impl ProgressSender {
    /// Sends to `channel`.
    #[must_use]
    pub fn new(channel: mpsc::Sender<Progress>) -> Self {
        ProgressSender(Some(channel))
    }

    /// Sends an event.
    pub(crate) async fn send(&self, progress: Progress) {
        if let Some(channel) = &self.0 {
            // Nobody listens any more: the transfer goes on.
            let _ = channel.send(progress).await;
        }
    }

    /// Sends an event that has only a text.
    pub(crate) async fn say(&self, event: &str) {
        self.send(Progress { event: event.to_owned(), ..Progress::default() }).await;
    }
}

/// A record that a transfer has written; what the events `/images/create` and `/images/update`
/// tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageChange {
    /// A new image.
    Created(Image),
    /// An image with a new target or labels.
    Updated(Image),
}

impl ImageChange {
    /// The image.
    #[must_use]
    pub fn image(&self) -> &Image {
        match self {
            ImageChange::Created(image) | ImageChange::Updated(image) => image,
        }
    }
}

/// Is told each change with its namespace, right after its commit. Must not block.
pub type ImageListener = Arc<dyn Fn(&base_ident::Namespace, &ImageChange) + Send + Sync>;
