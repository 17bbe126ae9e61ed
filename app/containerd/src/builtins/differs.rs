//! The erofs differ and stream processors.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use base_errors::Error;
use base_plugin::{Graph, Registration, types};
use serde::{Deserialize, Serialize};
use store_diff::{Differ, ErofsDiffer, Processors, StreamProcessor};

use super::stores::skip_unsupported;
use super::{Surroundings, platform};
use crate::config::Config;

pub(super) const EROFS: &str = "io.containerd.differ.v1.erofs";

/// `[plugins."io.containerd.differ.v1.erofs"]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ErofsTable {
    /// Options for `mkfs.erofs`.
    pub mkfs_options: Vec<String>,
    /// Keep the tar in the image, with an index before it.
    pub enable_tar_index: bool,
    /// Protect images by dm-verity.
    pub enable_dmverity: bool,
}

/// `[stream_processors.<id>]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ProcessorTable {
    accepts: Vec<String>,
    returns: String,
    path: String,
    args: Vec<String>,
    env: Vec<String>,
}

/// Decrypts layers, if the program is there: in every containerd's configuration.
const DECODER: &str = "ctd-decoder";
/// Where its keys are.
const KEYS: &str = "/etc/containerd/ocicrypt/keys";
const KEY_PROVIDERS: &str =
    "OCICRYPT_KEYPROVIDER_CONFIG=/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf";
/// The layers that it decrypts: id, what it takes, what it gives.
const DECODED: [(&str, &str, &str); 2] = [
    (
        "io.containerd.ocicrypt.decoder.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+encrypted",
        "application/vnd.oci.image.layer.v1.tar",
    ),
    (
        "io.containerd.ocicrypt.decoder.v1.tar.gzip",
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ),
];

/// The configured stream processors, and those that are always there. One that cannot be read is
/// logged and left out.
pub(super) fn processors(config: &Config) -> Processors {
    let mut all: BTreeMap<String, StreamProcessor> = DECODED
        .iter()
        .map(|(id, accepts, returns)| {
            let processor = StreamProcessor {
                id: (*id).to_owned(),
                accepts: vec![(*accepts).to_owned()],
                returns: (*returns).to_owned(),
                path: DECODER.to_owned(),
                args: vec!["--decryption-keys-path".to_owned(), KEYS.to_owned()],
                env: vec![KEY_PROVIDERS.to_owned()],
            };
            (processor.id.clone(), processor)
        })
        .collect();
    for (id, table) in &config.stream_processors {
        match table.clone().try_into::<ProcessorTable>() {
            Ok(ProcessorTable { accepts, returns, path, args, env }) => {
                let id = id.clone();
                all.insert(id.clone(), StreamProcessor { id, accepts, returns, path, args, env });
            }
            Err(error) => tracing::warn!(id, %error, "ignoring stream processor"),
        }
    }
    Processors::new(all.into_values().collect())
}

pub(super) fn register(graph: &mut Graph, surroundings: &Rc<Surroundings>) {
    let around = Rc::clone(surroundings);
    graph.register(Registration::new(types::DIFFER, "erofs", &[types::METADATA], move |context| {
        let table: ErofsTable = around.tables.take(EROFS)?;
        context.platforms.push(platform());
        if table.enable_dmverity {
            // Images without the protection that was asked for would be worse than none.
            let text = "enable_dmverity is not supported: layers can be protected by set_immutable \
                        of the erofs snapshotter";
            return Err(Error::not_implemented(text).into());
        }
        let opened = ErofsDiffer::open(
            table.mkfs_options,
            table.enable_tar_index,
            processors(&around.config),
        );
        Ok(Arc::new(opened.map_err(skip_unsupported)?) as Arc<dyn Differ>)
    }));
}
