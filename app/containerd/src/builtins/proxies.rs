//! `[proxy_plugins]`: snapshotters, differs and content stores that are other programs.

use std::rc::Rc;
use std::sync::Arc;

use base_errors::Error;
use base_ident::Namespace;
use base_plugin::{Graph, InitContext, PluginError, Registration, types};
use store_content::{ProxyStore, Store};
use store_diff::{Differ, ProxyDiffer};
use store_metadata::Scope;
use store_snapshot::ProxySnapshotter;
use tonic::transport::{Channel, Endpoint};

use super::stores::LoadedSnapshotter;
use super::{Surroundings, platform};
use crate::config::ProxyPlugin;

/// The namespace that a content store is called in.
// A backend is shared by all our namespaces and is swept for all of them, so one that keeps
// namespaces itself has to see a single one. Others do not look at it.
const CONTENT_NAMESPACE: &str = "default";

pub(super) fn register(graph: &mut Graph, surroundings: &Rc<Surroundings>) {
    for (name, plugin) in &surroundings.config.proxy_plugins {
        match registration(name, plugin) {
            Some(registration) => graph.register(registration),
            None => {
                let kind = &plugin.kind;
                tracing::warn!(name, kind, "ignoring proxy plugin of unknown type");
            }
        }
    }
}

/// The plugin `name` of another program.
fn registration(name: &str, plugin: &ProxyPlugin) -> Option<Registration> {
    let (id, plugin) = (name.to_owned(), plugin.clone());
    let registration = match plugin.kind.as_str() {
        "snapshot" | types::SNAPSHOTTER => {
            let backend = id.clone();
            Registration::new(types::SNAPSHOTTER, id, &[], move |context| {
                show(context, &plugin);
                let snapshotter = ProxySnapshotter::new(channel(&plugin.address)?, &backend, None)?;
                let capabilities = plugin.capabilities;
                Ok(LoadedSnapshotter { snapshotter: Arc::new(snapshotter), capabilities })
            })
        }
        "content" | types::CONTENT => Registration::new(types::CONTENT, id, &[], move |context| {
            show(context, &plugin);
            let scope = Scope::new(Namespace::new(CONTENT_NAMESPACE).map_err(Error::from)?);
            let store = ProxyStore::new(channel(&plugin.address)?, &scope)?;
            Ok(Arc::new(store) as Arc<dyn Store>)
        }),
        "diff" | types::DIFFER => Registration::new(types::DIFFER, id, &[], move |context| {
            show(context, &plugin);
            Ok(Arc::new(ProxyDiffer::new(channel(&plugin.address)?)) as Arc<dyn Differ>)
        }),
        _ => return None,
    };
    Some(registration)
}

fn show(context: &mut InitContext<'_>, plugin: &ProxyPlugin) {
    let served = if plugin.platform.is_empty() { platform() } else { plugin.platform.clone() };
    context.platforms.push(served);
    context.exports.extend(plugin.exports.clone());
    context.exports.insert("address".to_owned(), plugin.address.clone());
    context.capabilities.clone_from(&plugin.capabilities);
}

/// A channel to a unix socket, which is opened by the first call: the program may start after us.
fn channel(address: &str) -> Result<Channel, PluginError> {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    let endpoint = Endpoint::try_from(format!("unix://{path}"))
        .map_err(|error| Error::invalid_argument(format!("proxy address {address:?}: {error}")))?;
    Ok(endpoint.connect_lazy())
}
