//! The bundle of a client: its `config.json`, fit for another folder.

use std::path::{Path, PathBuf};

use api_shim::{Any, typeurl};
use rustix::io::Errno;
use serde_json::Value;

use crate::ApiError;
use crate::process::OciProcess;

/// The largest description that is read.
const MAX_SPEC: u64 = 8 << 20;

/// What is in a bundle.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// The specification, for the record and the runtime.
    pub(crate) spec: Any,
    /// The first process.
    pub(crate) process: OciProcess,
}

/// Reads the bundle at `path`. Blocks on the file system.
///
/// The runtime gets a bundle of the supervisor, so that paths which are relative to the client's
/// bundle are made absolute; if there are none, the bytes stay as they are.
///
/// # Errors
/// [`ApiError::File`] if there is none, [`ApiError::Spec`] if it is no specification.
pub(crate) fn read(path: &str) -> Result<Bundle, ApiError> {
    let file = Path::new(path).join("config.json");
    let failed = |error: std::io::Error| ApiError::file("open", &file, error);
    let found = std::fs::metadata(&file).map_err(failed)?;
    let refused = |errno| Err(ApiError::file("read", &file, errno));
    if found.is_dir() {
        return refused(Errno::ISDIR);
    }
    if !found.is_file() {
        // A fifo would be waited for.
        return refused(Errno::INVAL);
    }
    if found.len() > MAX_SPEC {
        return refused(Errno::FBIG);
    }
    let bytes = std::fs::read(&file).map_err(failed)?;
    let mut spec: Value = serde_json::from_slice(&bytes).map_err(ApiError::Spec)?;
    let process = match spec.get("process") {
        Some(process) if !process.is_null() => {
            serde_json::from_value(process.clone()).map_err(ApiError::Spec)?
        }
        _ => OciProcess::default(),
    };
    let folder = std::path::absolute(path).map_err(|error| ApiError::file("open", path, error))?;
    let bytes = if make_absolute(&mut spec, &folder) {
        serde_json::to_vec(&spec).map_err(ApiError::Spec)?
    } else {
        bytes
    };
    Ok(Bundle { spec: typeurl::encode_json(typeurl::SPEC, bytes), process })
}

/// Makes the paths in `spec` absolute that runtimes take for relative to the bundle; true if there
/// were any.
fn make_absolute(spec: &mut Value, bundle: &Path) -> bool {
    let mut changed = false;
    let mut fix = |value: &mut Value| {
        if let Value::String(path) = value
            && !path.is_empty()
            && !path.starts_with('/')
        {
            *path = joined(bundle, path).to_string_lossy().into_owned();
            changed = true;
        }
    };
    match spec.pointer_mut("/root/path") {
        Some(path) => fix(path),
        None => {
            // Runtimes take a specification without it for one of `rootfs`.
            if let Some(Value::Object(root)) = spec.get_mut("root") {
                let mut path = Value::from("rootfs");
                fix(&mut path);
                root.insert("path".to_owned(), path);
            }
        }
    }
    if let Some(Value::Array(mounts)) = spec.get_mut("mounts") {
        for mount in mounts {
            let option = |wanted: &str| {
                let options = mount.get("options").and_then(Value::as_array);
                options.is_some_and(|all| all.iter().any(|one| one.as_str() == Some(wanted)))
            };
            let bind = mount.get("type").and_then(Value::as_str) == Some("bind")
                || option("bind")
                || option("rbind");
            if bind && let Some(source) = mount.get_mut("source") {
                fix(source);
            }
        }
    }
    changed
}

fn joined(bundle: &Path, path: &str) -> PathBuf {
    bundle.join(path.strip_prefix("./").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bundle(spec: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::write(folder.path().join("config.json"), spec).unwrap();
        folder
    }

    #[test]
    fn absolute_specs_stay_byte_for_byte() {
        let text =
            r#"{ "root":{"path":"/r"},  "mounts":[{"type":"proc","source":"proc"}], "n":1e3 }"#;
        let folder = bundle(text);
        let read = read(folder.path().to_str().unwrap()).unwrap();
        assert_eq!(read.spec.value, text.as_bytes());
    }

    #[test]
    fn relative_paths_are_found() {
        let spec = json!({
            "root": {"path": "rootfs", "readonly": true},
            "process": {"args": ["a"], "cwd": "/"},
            "mounts": [{"type": "bind", "source": "data"}, {"source": "x", "options": ["rbind"]},
                       {"type": "tmpfs", "source": "tmpfs"}, {"type": "bind", "source": "/abs"}],
        });
        let folder = bundle(&spec.to_string());
        let base = folder.path().to_str().unwrap();
        let read = read(base).unwrap();
        let spec: Value = serde_json::from_slice(&read.spec.value).unwrap();
        assert_eq!(spec["root"], json!({"path": format!("{base}/rootfs"), "readonly": true}));
        assert_eq!(spec["mounts"][0]["source"], format!("{base}/data"));
        assert_eq!(spec["mounts"][1]["source"], format!("{base}/x"));
        assert_eq!(spec["mounts"][2]["source"], "tmpfs");
        assert_eq!(spec["mounts"][3]["source"], "/abs");
        assert_eq!(read.process.args.unwrap(), ["a"]);
    }

    #[test]
    fn bad_bundles_are_told() {
        let missing = read("/dev/shm/no-such-bundle").unwrap_err().to_string();
        assert_eq!(missing, "open /dev/shm/no-such-bundle/config.json: no such file or directory");
        let folder = bundle("{}");
        std::fs::remove_file(folder.path().join("config.json")).unwrap();
        std::fs::create_dir(folder.path().join("config.json")).unwrap();
        let path = folder.path().to_str().unwrap();
        let text = format!("read {path}/config.json: is a directory");
        assert_eq!(read(path).unwrap_err().to_string(), text);
        for bad in ["", "{", "[]x", "{\"process\": 5}", "{\"process\": {\"args\": {}}}"] {
            let folder = bundle(bad);
            assert!(
                matches!(read(folder.path().to_str().unwrap()), Err(ApiError::Spec(_))),
                "{bad}"
            );
        }
        // Not of any shape that is looked at; the runtime has the last word.
        for odd in ["null", "5", "{\"root\": 7, \"mounts\": [null, 3, {\"options\": 3}]}"] {
            let folder = bundle(odd);
            read(folder.path().to_str().unwrap()).unwrap();
        }
    }
}
