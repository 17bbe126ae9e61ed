//! What a plugin says of itself, and what it gets when it is initialised.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use base_errors::{Error, Result};

use crate::graph::Plugins;

/// Why a plugin is not there.
#[derive(Debug)]
pub enum PluginError {
    /// It cannot work here, and that is fine: the reason is reported.
    Skip(String),
    /// It failed.
    Failed(Error),
}

impl<E: Into<Error>> From<E> for PluginError {
    fn from(error: E) -> Self {
        PluginError::Failed(error.into())
    }
}

/// How a plugin comes into being.
type Init =
    Box<dyn FnOnce(&mut InitContext<'_>) -> Result<Arc<dyn Any + Send + Sync>, PluginError>>;

/// A plugin that could be started.
pub struct Registration {
    /// Its type, such as `io.containerd.snapshotter.v1`.
    pub kind: &'static str,
    /// Its id within the type, such as `overlayfs`.
    pub id: String,
    /// Types whose plugins come first, and that it may ask for.
    pub requires: Vec<&'static str>,
    /// Initialises it.
    pub(crate) init: Init,
}

impl Registration {
    /// A plugin of `kind` with `id` that needs the plugins of the types `requires`.
    pub fn new<T: Any + Send + Sync>(
        kind: &'static str,
        id: impl Into<String>,
        requires: &[&'static str],
        init: impl FnOnce(&mut InitContext<'_>) -> Result<T, PluginError> + 'static,
    ) -> Self {
        Registration {
            kind,
            id: id.into(),
            requires: requires.to_vec(),
            init: Box::new(move |context| {
                init(context).map(|instance| Arc::new(instance) as Arc<dyn Any + Send + Sync>)
            }),
        }
    }

    /// `type.id`, the name in configurations and folders.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("{}.{}", self.kind, self.id)
    }
}

/// What a plugin gets when it is initialised, and where it leaves what introspection shows.
pub struct InitContext<'a> {
    /// `type.id` of the plugin.
    pub uri: String,
    /// Its folder for what lasts: `<root>/<type>.<id>`. It makes it itself if it needs it.
    pub root: PathBuf,
    /// Its folder for what a reboot ends: `<state>/<type>.<id>`.
    pub state: PathBuf,
    /// Platforms that it serves, such as `linux/amd64`, for introspection.
    pub platforms: Vec<String>,
    /// Free facts for introspection, such as its root.
    pub exports: BTreeMap<String, String>,
    /// What it can do, for introspection and for other plugins.
    pub capabilities: Vec<String>,
    pub(crate) requires: Vec<&'static str>,
    pub(crate) plugins: &'a Plugins,
}

impl InitContext<'_> {
    /// The instance of the plugin `kind`.`id`, as it was made.
    ///
    /// # Errors
    /// NotFound if it is not loaded; FailedPrecondition if the type was not declared in `requires`
    /// or the instance has another Rust type.
    pub fn get<T: Any + Send + Sync>(&self, kind: &str, id: &str) -> Result<Arc<T>> {
        self.declared(kind)?;
        self.plugins.get(kind, id)
    }

    /// The only instance of type `kind`, or the first one.
    ///
    /// # Errors
    /// As [`InitContext::get`].
    pub fn single<T: Any + Send + Sync>(&self, kind: &str) -> Result<Arc<T>> {
        self.declared(kind)?;
        self.plugins
            .all(kind)?
            .into_iter()
            .next()
            .map(|(_, instance)| instance)
            .ok_or_else(|| Error::not_found(format!("no plugins registered for {kind:?}")))
    }

    /// All instances of type `kind`, by id.
    ///
    /// # Errors
    /// As [`InitContext::get`]; none loaded is no error.
    pub fn all<T: Any + Send + Sync>(&self, kind: &str) -> Result<BTreeMap<String, Arc<T>>> {
        self.declared(kind)?;
        self.plugins.all(kind)
    }

    fn declared(&self, kind: &str) -> Result<()> {
        if self.requires.iter().any(|required| *required == kind || *required == crate::types::ALL)
        {
            return Ok(());
        }
        Err(Error::failed_precondition(format!(
            "plugin {} uses {kind} without requiring it",
            self.uri
        )))
    }
}
