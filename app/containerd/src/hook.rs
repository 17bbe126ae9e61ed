//! `containerd oci-hook`: a hook of an OCI spec whose arguments and environment may name what the
//! runtime tells about the container.
//!
//! What stands between `{{` and `}}` is replaced: `id`, `bundle`, `rootfs`, `pid`, `status`, and
//! `annotation "key"`. The texts are templates as Go has them; of those there are calls of these
//! functions, texts in quotes, one handed on by `|`, comments and trimming.

mod template;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use template::Values;

/// The most that a state may be: annotations of a spec are in it.
const MAX_STATE: u64 = 4 << 20;

/// What a runtime writes to a hook's standard input.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct State {
    id: String,
    status: String,
    pid: i64,
    bundle: PathBuf,
    annotations: Option<BTreeMap<String, String>>,
}

/// What a hook wants to know of the spec.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    root: Option<Root>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Root {
    path: PathBuf,
}

/// Becomes the program that `words` name.
///
/// # Errors
///
/// A state, spec or template that cannot be read; the program cannot be run.
pub fn run(words: &[OsString]) -> Result<()> {
    let mut text = Vec::new();
    std::io::stdin().take(MAX_STATE).read_to_end(&mut text).context("read the state")?;
    let values = values(&text)?;
    let words = words.iter().map(|word| values.fill(word)).collect::<Result<Vec<_>>>()?;
    let mut environment = Vec::new();
    for (name, value) in std::env::vars_os() {
        environment.push((values.fill(&name)?, values.fill(&value)?));
    }
    let Some((program, arguments)) = words.split_first() else { bail!("no program to run") };
    // COMPAT: a name is a path; it is not looked for.
    let path = match program.as_bytes().contains(&b'/') {
        true => PathBuf::from(program),
        false => Path::new(".").join(program),
    };
    let mut command = Command::new(path);
    command.arg0(program).args(arguments).env_clear().envs(environment);
    let error = command.exec();
    Err(error).with_context(|| format!("exec {}", program.display()))
}

/// Reads the state, and the spec of its bundle.
fn values(state: &[u8]) -> Result<Values> {
    // Whatever follows is not looked at.
    let mut states = serde_json::Deserializer::from_slice(state).into_iter::<State>();
    let state = states.next().context("no state on the standard input")?.context("state")?;
    let path = state.bundle.join("config.json");
    let spec = std::fs::read(&path).with_context(|| format!("open {}", path.display()))?;
    let spec: Spec = serde_json::from_slice(&spec).with_context(|| path.display().to_string())?;
    let root = spec.root.unwrap_or_default().path;
    Ok(Values {
        rootfs: state.bundle.join(root).components().collect::<PathBuf>().into_os_string(),
        id: state.id,
        bundle: state.bundle.into_os_string(),
        pid: state.pid,
        status: state.status,
        annotations: state.annotations.unwrap_or_default(),
    })
}

impl Values {
    /// A text that may be a template.
    fn fill(&self, text: &OsStr) -> Result<OsString> {
        let filled = template::fill(text.as_bytes(), self)
            .with_context(|| format!("template {:?}", text.display()))?;
        Ok(OsStr::from_bytes(&filled).to_owned())
    }
}
