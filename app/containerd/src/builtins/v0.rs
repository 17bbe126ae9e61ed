//! The API of containerd 0.2, as a plugin.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use api_grpc::v0::api_server::ApiServer;
use base_errors::Error;
use base_ident::Namespace;
use base_plugin::{InitContext, PluginError, Registration, types};
use runtime_event::Exchange;
use runtime_supervisor::Supervisor;
use serde::{Deserialize, Serialize};
use service_grpc::Stores;
use service_grpc::server::GrpcService;
use service_v0::{Api, Config, Parts};

use super::Surroundings;
use crate::cli;
use crate::config::parse_duration;

pub(super) const API: &str = "io.containerd.grpc.v1.api-v0";

/// `[plugins."io.containerd.grpc.v1.api-v0"]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct V0Config {
    /// The namespace in which the newer services see its containers.
    pub namespace: String,
    /// How many events are kept for replay; zero keeps all.
    pub retain_count: usize,
    /// How long a start may take.
    pub start_timeout: String,
    /// The OCI runtime of containers that name none.
    pub runtime: String,
    /// Its global arguments.
    pub runtime_args: Vec<String>,
    /// The state folder, in 0.2's layout; empty means the plugin's own.
    pub state_dir: PathBuf,
}

impl Default for V0Config {
    fn default() -> Self {
        V0Config {
            namespace: "v0".to_owned(),
            retain_count: 500,
            start_timeout: "30s".to_owned(),
            runtime: "runc".to_owned(),
            runtime_args: Vec::new(),
            state_dir: PathBuf::new(),
        }
    }
}

/// The plugin. The daemon finds the API in the surroundings, to let it come back to its containers.
pub(super) fn registration(surroundings: &Rc<Surroundings>) -> Registration {
    let around = Rc::clone(surroundings);
    let requires = &[types::EVENT, types::METADATA, types::RUNTIME];
    Registration::new(types::GRPC, "api-v0", requires, move |context| serve(context, &around))
}

fn serve(context: &mut InitContext<'_>, around: &Surroundings) -> Result<GrpcService, PluginError> {
    let table: V0Config = around.tables.take(API)?;
    let namespace = Namespace::new(&table.namespace).map_err(Error::from)?;
    let start_timeout = parse_duration(&table.start_timeout).ok_or_else(|| {
        Error::invalid_argument(format!("start_timeout: {:?} is no duration", table.start_timeout))
    })?;
    let own_state = table.state_dir.as_os_str().is_empty();
    let state_dir = if own_state { context.state.clone() } else { table.state_dir };
    let config = Config {
        retain_count: table.retain_count,
        start_timeout,
        runtime: table.runtime,
        runtime_args: table.runtime_args,
        revision: cli::REVISION.to_owned(),
        ..Config::new(namespace, state_dir, context.root.clone())
    };
    let stores: Arc<Stores> = context.single(types::METADATA)?;
    let exchange: Arc<Exchange> = context.single(types::EVENT)?;
    let supervisor: Arc<Supervisor> = context.single(types::RUNTIME)?;
    let parts = Parts {
        supervisor: (*supervisor).clone(),
        metadata: stores.metadata.clone(),
        exchange: (*exchange).clone(),
    };
    let api = Api::new(config, parts).map_err(Error::from)?;
    // Once in a start.
    let _ = around.v0.set(api.clone());
    let limits = &around.config.grpc;
    let server = ApiServer::new(api)
        .max_decoding_message_size(limits.max_recv_message_size)
        .max_encoding_message_size(limits.max_send_message_size);
    Ok(GrpcService::new(server))
}
