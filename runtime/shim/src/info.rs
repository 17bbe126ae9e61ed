//! `-v` and `-info`: what this shim is.

use std::fmt::Write as _;

use api_shim::types::{RuntimeInfo, RuntimeVersion};
use api_shim::{Any, Message, typeurl};
use base_errors::{Error, Result, ResultExt};
use runtime_runc::{OciRuntime, Reaper, RuncProgram};

use crate::bootstrap::arguments::PROGRAM;
use crate::{bootstrap, options, serve};

/// The name of the runtime, as clients ask for it.
const RUNTIME: &str = "io.containerd.runc.v2";

/// The version of this build.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints name and version, as containerd's shim does.
pub(crate) fn print_version() -> Result<()> {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{PROGRAM}:\n  Version:  {VERSION}\n  Revision: \n");
    bootstrap::answer(text.as_bytes())
}

/// Prints an encoded `RuntimeInfo`. `input` is nothing, or runtime options as an `Any`.
pub(crate) fn print_info(input: &[u8]) -> Result<()> {
    let any = Any::decode(input).map_err(|error| {
        Error::invalid_argument(format!("failed to read runtime options: {error}"))
    })?;
    let any = Some(any).filter(|any| !any.type_url.is_empty());
    let options = options::decode(any.as_ref()).context("failed to read runtime options")?;
    let features = serve::runtime()?.block_on(async {
        let program = RuncProgram::new(
            &options.binary_name,
            std::path::PathBuf::new(),
            None,
            false,
            Reaper::install()?,
        );
        // Not every runtime has `features`; such a one is still described.
        Ok::<_, Error>(program.features().await.ok())
    })?;
    let info = RuntimeInfo {
        name: RUNTIME.to_owned(),
        version: Some(RuntimeVersion { version: VERSION.to_owned(), revision: String::new() }),
        options: any,
        features: features.map(|json| typeurl::encode_json(typeurl::FEATURES, json.into_bytes())),
        ..Default::default()
    };
    bootstrap::answer(&info.encode_to_vec())
}
