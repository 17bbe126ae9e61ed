//! What an image says about the process to run.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::SpecError;

/// The `config` part of an image's configuration; OCI and docker name the fields alike.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `user[:group]`, names or numbers; empty for root.
    #[serde(deserialize_with = "nullable")]
    pub user: String,
    /// `KEY=value`.
    #[serde(deserialize_with = "nullable")]
    pub env: Vec<String>,
    /// The program and its first arguments.
    #[serde(deserialize_with = "nullable")]
    pub entrypoint: Vec<String>,
    /// Default arguments, or the program where there is no entry point.
    #[serde(deserialize_with = "nullable")]
    pub cmd: Vec<String>,
    /// Where the process starts; empty for `/`.
    #[serde(deserialize_with = "nullable")]
    pub working_dir: String,
    /// Free labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the process to end; empty for SIGTERM.
    #[serde(deserialize_with = "nullable")]
    pub stop_signal: String,
}

/// Go writes empty lists and maps as `null`.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl ImageConfig {
    /// Reads the `config` of an image's configuration document; without one, all is empty.
    ///
    /// # Errors
    /// [`SpecError::ImageConfig`] if it is not JSON of that kind.
    pub fn parse(json: &[u8]) -> Result<Self, SpecError> {
        #[derive(Deserialize)]
        struct Document {
            #[serde(default)]
            config: Option<ImageConfig>,
        }
        let document: Document = serde_json::from_slice(json).map_err(SpecError::ImageConfig)?;
        Ok(document.config.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_means_empty() {
        let json = br#"{"architecture":"amd64","config":{"Env":["A=b"],"Cmd":["sh"],
            "Entrypoint":null,"Labels":null,"User":"1:2","WorkingDir":"/w","Other":1}}"#;
        let config = ImageConfig::parse(json).unwrap();
        assert_eq!(
            (&config.env[..], &config.cmd[..]),
            (&["A=b".to_owned()][..], &["sh".to_owned()][..])
        );
        assert!(config.entrypoint.is_empty() && config.labels.is_empty());
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("1:2", "/w"));
        assert_eq!(ImageConfig::parse(b"{\"config\":null}").unwrap(), ImageConfig::default());
        assert!(ImageConfig::parse(b"[").is_err());
    }
}
