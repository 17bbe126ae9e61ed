//! Checkpoints as content: the folder of CRIU's files as a tar, the spec beside it.

use std::collections::BTreeMap;
use std::path::Path;

use api_shim::{linux_runc, runc, types, typeurl};
use base_errors::{Error, Result};
use base_ident::{Descriptor, Labels};
use bytes::Bytes;
use kernel_mount::Mount;
use prost::Message as _;
use prost_types::Any;
use runtime_supervisor::Unpack;
use store_content::{Store as _, WriteOptions};
use store_diff::{ApplyOptions, CompareOptions, media};
use store_metadata::Scope;

use crate::Backends;
use crate::convert::size;

/// Media type of the tar with CRIU's files.
const IMAGE: &str = "application/vnd.containerd.container.criu.checkpoint.criu.tar";

/// Media type of the container's spec, as a protobuf `Any`.
const CONFIG: &str = "application/vnd.containerd.container.checkpoint.config.v1+proto";

/// A descriptor's annotation with a folder that holds the checkpoint already.
const RESTORE_FROM: &str = "RestoreFromPath";

/// How the names of runc's shims begin.
const RUNC: &str = "io.containerd.runc.";

/// The folder in which a client wants the checkpoint of a task; empty if it did not name one.
///
/// # Errors
/// InvalidArgument for damaged options; options of another kind.
pub(super) fn image_path(runtime: &str, options: Option<&Any>) -> Result<String> {
    let Some(options) = options.filter(|options| !options.type_url.is_empty()) else {
        return Ok(String::new());
    };
    if typeurl::is::<runc::CheckpointOptions>(options) {
        return Ok(decode::<runc::CheckpointOptions>(options)?.image_path);
    }
    // Options of 1.0 have no such field; those of other shims are theirs.
    if !runtime.starts_with(RUNC) || typeurl::is::<linux_runc::CheckpointOptions>(options) {
        return Ok(String::new());
    }
    Err(Error::unknown(format!("invalid task checkpoint option for {runtime}")))
}

/// The folder from which a client wants a new task restored; empty if it did not name one.
///
/// # Errors
/// InvalidArgument for damaged options.
pub(super) fn restore_path(
    options: Option<&Any>,
    checkpoint: Option<&types::Descriptor>,
) -> Result<String> {
    if let Some(options) = options.filter(|options| typeurl::is::<runc::Options>(options)) {
        let path = decode::<runc::Options>(options)?.criu_image_path;
        if !path.is_empty() {
            return Ok(path);
        }
    }
    let annotation = checkpoint.and_then(|checkpoint| checkpoint.annotations.get(RESTORE_FROM));
    Ok(annotation.cloned().unwrap_or_default())
}

fn decode<M: prost::Message + prost::Name + Default>(any: &Any) -> Result<M> {
    typeurl::decode(any).map_err(|error| Error::invalid_argument(error.to_string()))
}

/// What unpacks the checkpoint `image` from the content store.
///
/// # Errors
/// A media type that is no checkpoint's; NotFound if there is no such content.
pub(super) async fn unpack(backends: &Backends, scope: Scope, image: Descriptor) -> Result<Unpack> {
    if image.media_type != IMAGE {
        // COMPAT: the error has no class.
        return Err(Error::unknown(format!("unsupported checkpoint type {:?}", image.media_type)));
    }
    backends.content(&scope).info(&image.digest).await?;
    let tar = Descriptor { media_type: media::OCI_LAYER.to_owned(), ..image };
    let backends = backends.clone();
    Ok(Unpack::new(move |folder| {
        let (backends, scope, tar) = (backends.clone(), scope.clone(), tar.clone());
        Box::pin(async move {
            let target = [bind(&folder, "rw")];
            backends.apply(&scope, &tar, &target, ApplyOptions::default()).await.map(drop)
        })
    }))
}

/// Writes the checkpoint in `folder`, and the spec, into the content store.
///
/// # Errors
/// Those of the content store and the folder.
pub(super) async fn store(
    backends: &Backends,
    scope: &Scope,
    folder: &Path,
    spec: Option<&Any>,
) -> Result<Vec<types::Descriptor>> {
    let reference = folder.display().to_string();
    let options = CompareOptions {
        media_type: media::OCI_LAYER.to_owned(),
        reference: reference.clone(),
        ..CompareOptions::default()
    };
    let image = backends.compare(scope, &[], &[bind(folder, "ro")], options).await?;
    let image = message(IMAGE, &image);
    let spec = spec.cloned().unwrap_or_default().encode_to_vec();
    let spec = write(backends, scope, format!("{reference}/spec"), spec.into()).await?;
    Ok(vec![image, message(CONFIG, &spec)])
}

/// A small blob, which may be there already.
async fn write(
    backends: &Backends,
    scope: &Scope,
    reference: String,
    data: Bytes,
) -> Result<Descriptor> {
    let size = data.len() as u64;
    let content = backends.content(scope);
    let mut writer = content.writer(WriteOptions { reference, ..WriteOptions::default() }).await?;
    writer.truncate(0).await?;
    writer.write(data).await?;
    let digest = writer.digest()?;
    // DURABILITY: the commit makes the bytes durable before it makes their record (content.record).
    match writer.commit(0, Some(&digest), Labels::new()).await {
        Err(error) if !error.is_already_exists() => return Err(error),
        _ => {}
    }
    Ok(Descriptor { media_type: String::new(), digest, size, annotations: BTreeMap::new() })
}

fn message(media_type: &str, content: &Descriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: media_type.to_owned(),
        digest: content.digest.to_string(),
        size: size(content.size),
        annotations: BTreeMap::new(),
    }
}

/// The tree of a folder, as differs take it.
fn bind(folder: &Path, access: &str) -> Mount {
    Mount {
        kind: "bind".to_owned(),
        source: folder.display().to_string(),
        target: String::new(),
        options: vec!["rbind".to_owned(), access.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_clients_name() {
        let runc = typeurl::encode(&runc::CheckpointOptions {
            image_path: "/i".to_owned(),
            ..Default::default()
        });
        assert_eq!(image_path("io.containerd.runc.v2", Some(&runc)).unwrap(), "/i");
        let old = typeurl::encode(&linux_runc::CheckpointOptions::default());
        assert_eq!(image_path("io.containerd.runc.v2", Some(&old)).unwrap(), "");
        assert_eq!(image_path("io.containerd.runc.v2", None).unwrap(), "");
        let foreign = Any { type_url: "kata.Checkpoint".to_owned(), value: Vec::new() };
        assert_eq!(image_path("io.containerd.kata.v2", Some(&foreign)).unwrap(), "");
        let error = image_path("io.containerd.runc.v2", Some(&foreign)).unwrap_err();
        let text = "invalid task checkpoint option for io.containerd.runc.v2";
        assert!(error.to_string().starts_with(text), "{error}");

        let options = typeurl::encode(&runc::Options {
            criu_image_path: "/o".to_owned(),
            ..Default::default()
        });
        let annotated = types::Descriptor {
            annotations: [(RESTORE_FROM.to_owned(), "/a".to_owned())].into(),
            ..Default::default()
        };
        assert_eq!(restore_path(Some(&options), Some(&annotated)).unwrap(), "/o");
        assert_eq!(restore_path(Some(&runc), Some(&annotated)).unwrap(), "/a");
        assert_eq!(restore_path(None, Some(&types::Descriptor::default())).unwrap(), "");
        let damaged = Any { value: vec![0xff], ..options };
        assert!(restore_path(Some(&damaged), None).is_err());
    }
}
