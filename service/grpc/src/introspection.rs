//! `containerd.services.introspection.v1`.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use api_grpc::introspection::introspection_server::Introspection;
use api_grpc::introspection::{
    Plugin, PluginInfoRequest, PluginInfoResponse, PluginsRequest, PluginsResponse, ServerResponse,
};
use api_shim::types::Platform;
use base_errors::Error;
use base_ident::filter::{Adaptor, Filter};
use base_plugin::{Loaded, Outcome};
use tonic::{Request, Response, Status};

use crate::Deprecations;
use crate::convert::status;

/// The plugins after the start. The service is a plugin itself, so they are set when all are there.
#[derive(Clone, Default)]
pub struct PluginReport(Arc<OnceLock<Vec<Plugin>>>);

impl PluginReport {
    /// Sets the report; once.
    pub fn set(&self, plugins: &[Loaded]) {
        let _ = self.0.set(plugins.iter().map(plugin).collect());
    }

    fn plugins(&self) -> &[Plugin] {
        self.0.get().map(Vec::as_slice).unwrap_or_default()
    }
}

fn plugin(loaded: &Loaded) -> Plugin {
    let init_err = match &loaded.outcome {
        Outcome::Loaded => None,
        // COMPAT: `ctr plugins ls` shows `skip` for errors whose text has containerd's words for it.
        Outcome::Skipped(reason) => Some(Error::unknown(format!("{reason}: skip plugin"))),
        Outcome::Failed(error) => Some(Error::new(error.class(), error.to_string())),
    };
    Plugin {
        r#type: loaded.kind.to_owned(),
        id: loaded.id.clone(),
        requires: loaded.requires.iter().map(|kind| (*kind).to_owned()).collect(),
        platforms: loaded.platforms.iter().map(|platform| parse_platform(platform)).collect(),
        exports: loaded.exports.clone(),
        capabilities: loaded.capabilities.clone(),
        init_err: init_err.map(api_ttrpc::Status::from),
    }
}

/// `linux/arm64/v8` as a message.
fn parse_platform(text: &str) -> Platform {
    let mut parts = text.split('/').map(str::to_owned);
    Platform {
        os: parts.next().unwrap_or_default(),
        architecture: parts.next().unwrap_or_default(),
        variant: parts.next().unwrap_or_default(),
        ..Platform::default()
    }
}

/// A plugin as filters see it.
struct Fields<'a>(&'a Plugin);

impl Adaptor for Fields<'_> {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["type"] => Some(self.0.r#type.clone()),
            ["id"] => Some(self.0.id.clone()),
            // COMPAT: containerd lets filters look for plugins by their capabilities.
            ["capabilities"] => Some(self.0.capabilities.join(",")),
            _ => None,
        }
    }
}

/// What the daemon is made of, and who it is.
pub struct IntrospectionService {
    /// The plugins.
    pub report: PluginReport,
    /// The file that holds the server's id; made at the first call.
    pub uuid_file: PathBuf,
    /// What is in use although it is deprecated.
    pub deprecations: Deprecations,
}

impl IntrospectionService {
    /// The server's id: kept for the life of the root folder.
    fn uuid(&self) -> base_errors::Result<String> {
        let context = |error: std::io::Error| {
            Error::from(error).context(format!("server id {}", self.uuid_file.display()))
        };
        match std::fs::read_to_string(&self.uuid_file) {
            Ok(text) if !text.trim().is_empty() => {
                let text = text.trim();
                let valid = text.len() == 36
                    && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
                if !valid {
                    return Err(Error::data_loss(format!(
                        "server id {}: not a UUID",
                        self.uuid_file.display()
                    )));
                }
                return Ok(text.to_owned());
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(context(error)),
        }
        let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(context)?;
        let uuid = uuid.trim().to_owned();
        if let Some(folder) = self.uuid_file.parent() {
            std::fs::create_dir_all(folder).map_err(context)?;
        }
        std::fs::write(&self.uuid_file, &uuid).map_err(context)?;
        Ok(uuid)
    }
}

/// The inode of our pid namespace, by which clients know whether they share it.
fn pid_namespace() -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self/ns/pid").map_or(0, |metadata| metadata.ino())
}

#[tonic::async_trait]
impl Introspection for IntrospectionService {
    async fn plugins(
        &self,
        request: Request<PluginsRequest>,
    ) -> Result<Response<PluginsResponse>, Status> {
        let filter = Filter::parse_all(&request.get_ref().filters).map_err(status)?;
        let plugins = self.report.plugins().iter();
        let plugins = plugins.filter(|plugin| filter.matches(&Fields(plugin))).cloned().collect();
        Ok(Response::new(PluginsResponse { plugins }))
    }

    async fn server(&self, _request: Request<()>) -> Result<Response<ServerResponse>, Status> {
        Ok(Response::new(ServerResponse {
            uuid: self.uuid().map_err(status)?,
            pid: std::process::id().into(),
            pidns: pid_namespace(),
            deprecations: self.deprecations.list(),
        }))
    }

    async fn plugin_info(
        &self,
        request: Request<PluginInfoRequest>,
    ) -> Result<Response<PluginInfoResponse>, Status> {
        let request = request.into_inner();
        let found = self
            .report
            .plugins()
            .iter()
            .find(|plugin| plugin.r#type == request.r#type && plugin.id == request.id);
        let Some(found) = found else {
            return Err(status(Error::not_found(format!(
                "plugin {}.{}",
                request.r#type, request.id
            ))));
        };
        if request.options.is_some() {
            return Err(status(Error::not_implemented(format!(
                "plugin {}.{} has no further information",
                request.r#type, request.id
            ))));
        }
        Ok(Response::new(PluginInfoResponse { plugin: Some(found.clone()), extra: None }))
    }
}
