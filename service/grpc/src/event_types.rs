//! Which types of events subscribers get: all, or those of an old client.

use base_errors::{Error, Result};
use prost_types::Any;

/// Events of 1.0, as its clients know them.
const OF_1_0: [&str; 23] = [
    "containerd.events.ContainerCreate",
    "containerd.events.ContainerDelete",
    "containerd.events.ContainerUpdate",
    "containerd.events.ContentDelete",
    "containerd.events.NamespaceCreate",
    "containerd.events.NamespaceDelete",
    "containerd.events.NamespaceUpdate",
    "containerd.events.SnapshotCommit",
    "containerd.events.SnapshotPrepare",
    "containerd.events.SnapshotRemove",
    "containerd.events.TaskCheckpointed",
    "containerd.events.TaskCreate",
    "containerd.events.TaskDelete",
    "containerd.events.TaskExecAdded",
    "containerd.events.TaskExecStarted",
    "containerd.events.TaskExit",
    "containerd.events.TaskOOM",
    "containerd.events.TaskPaused",
    "containerd.events.TaskResumed",
    "containerd.events.TaskStart",
    "containerd.services.images.v1.ImageCreate",
    "containerd.services.images.v1.ImageDelete",
    "containerd.services.images.v1.ImageUpdate",
];

/// Which types of events subscribers get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventTypes {
    /// All there are.
    #[default]
    All,
    /// Those that clients of 1.0 know. They end at the first type that they do not know.
    Of1_0,
}

impl EventTypes {
    /// Reads the setting: empty, or `1.0`.
    ///
    /// # Errors
    /// Invalid argument for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "" => Ok(EventTypes::All),
            "1.0" => Ok(EventTypes::Of1_0),
            other => Err(Error::invalid_argument(format!(
                "only_types_of: {other:?}: expected \"1.0\" or nothing"
            ))),
        }
    }

    /// The event as subscribers get it; `None` if they do not.
    #[must_use]
    pub fn shown(self, event: &Any) -> Option<Any> {
        if self == EventTypes::All {
            return Some(event.clone());
        }
        let name = event.type_url.rsplit('/').next().unwrap_or_default();
        OF_1_0.contains(&name).then(|| event.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: &str) -> Option<String> {
        let event = Any { type_url: name.to_owned(), value: vec![1] };
        EventTypes::Of1_0.shown(&event).map(|event| event.type_url)
    }

    #[test]
    fn old_clients_get_what_they_know() {
        assert_eq!(shown("containerd.events.ContentCreate"), None);
        assert_eq!(shown("containerd.events.SandboxStart"), None);
        assert_eq!(shown("io.containerd.events.Mine"), None);
        let exit = "containerd.events.TaskExit";
        assert_eq!(shown(exit).as_deref(), Some(exit));
        let image = "containerd.services.images.v1.ImageCreate";
        assert_eq!(shown(image).as_deref(), Some(image));
        assert!(EventTypes::parse("0.9").is_err());
        let any = Any { type_url: "x".to_owned(), value: Vec::new() };
        assert_eq!(EventTypes::parse("").unwrap().shown(&any), Some(any.clone()));
    }
}
