//! `--mount type=bind,src=/a,dst=/b,options=rbind:ro`.

use base_errors::{Error, Result};
use runtime_spec::Mount;

/// Reads the value of one flag.
pub(super) fn parse(text: &str) -> Result<Mount> {
    let mut mount = Mount {
        destination: String::new(),
        kind: String::new(),
        source: String::new(),
        options: Vec::new(),
    };
    for part in text.split(',') {
        let (key, value) = part.split_once('=').ok_or_else(|| {
            Error::invalid_argument(format!(
                "invalid mount option {part:?}: expected key=val format"
            ))
        })?;
        let value = value.to_owned();
        match key {
            "type" => mount.kind = value,
            "source" | "src" => mount.source = value,
            "destination" | "dst" => mount.destination = value,
            "options" => mount.options = value.split(':').map(str::to_owned).collect(),
            _ => {
                return Err(Error::invalid_argument(format!("mount option {key:?} not supported")));
            }
        }
    }
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_flags() {
        let mount = parse("type=bind,src=/tmp,dst=/host,options=rbind:ro").unwrap();
        assert_eq!((mount.kind.as_str(), mount.source.as_str()), ("bind", "/tmp"));
        assert_eq!(mount.destination, "/host");
        assert_eq!(mount.options, ["rbind", "ro"]);
        assert!(parse("type=bind,what=1").unwrap_err().to_string().contains("\"what\""));
        assert!(parse("type").is_err());
    }
}
