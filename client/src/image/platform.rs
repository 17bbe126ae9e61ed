//! Operating system and architecture, and which may stand for which.

use std::fmt;

use base_errors::{Error, Result};
use serde::{Deserialize, Serialize};

/// A platform, as in an OCI index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64` and so on: Go's names.
    pub architecture: String,
    /// `v8` and the like; empty for the usual one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// The platform of this program.
    #[must_use]
    pub fn host() -> Platform {
        let platform = Platform {
            os: "linux".to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            variant: String::new(),
        };
        platform.normalised()
    }

    /// Reads `os`, `architecture`, `os/architecture` or `os/architecture/variant`. What is not said
    /// is the host's.
    ///
    /// # Errors
    /// InvalidArgument.
    pub fn parse(text: &str) -> Result<Platform> {
        let bad = || {
            let text = format!("{text:?} is an invalid platform, want os/architecture/variant");
            Error::invalid_argument(text)
        };
        let valid = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| valid(part)) {
            return Err(bad());
        }
        let host = Platform::host();
        let made = |os: &str, architecture: &str, variant: &str| Platform {
            os: os.to_lowercase(),
            architecture: architecture.to_lowercase(),
            variant: variant.to_lowercase(),
        };
        let platform = match parts[..] {
            ["linux"] => made("linux", &host.architecture, &host.variant),
            ["windows" | "darwin" | "freebsd"] => made(parts[0], &host.architecture, ""),
            [architecture] => made(&host.os, architecture, ""),
            [os, architecture] => made(os, architecture, ""),
            [os, architecture, variant] => made(os, architecture, variant),
            _ => return Err(bad()),
        };
        Ok(platform.normalised())
    }

    /// With the names that Go uses, and without a variant that says nothing.
    #[must_use]
    pub fn normalised(mut self) -> Platform {
        let (architecture, variant) = match (self.architecture.as_str(), self.variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", variant) => {
                ("amd64", if variant == "v1" { "" } else { variant })
            }
            ("i386" | "x86", _) => ("386", ""),
            ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            (architecture, variant) => (architecture, variant),
        };
        let (architecture, variant) = (architecture.to_owned(), variant.to_owned());
        self.architecture = architecture;
        self.variant = variant;
        self
    }

    /// How well programs for `other` run here: 0 is best, `None` not at all.
    #[must_use]
    pub fn rank(&self, other: &Platform) -> Option<usize> {
        let (wanted, other) = (self.clone().normalised(), other.clone().normalised());
        if wanted.os != other.os {
            return None;
        }
        if wanted == other {
            return Some(0);
        }
        let level = |variant: &str| -> Option<usize> {
            if variant.is_empty() { Some(1) } else { variant.strip_prefix('v')?.parse().ok() }
        };
        let (mine, theirs) = (level(&wanted.variant), level(&other.variant));
        match (wanted.architecture.as_str(), other.architecture.as_str()) {
            ("amd64", "386") => Some(100),
            ("amd64", "amd64") | ("arm", "arm") => mine?.checked_sub(theirs?),
            // An arm64 processor runs the older instructions as well, newest first.
            ("arm64", "arm") => Some(100 - theirs?.min(100)),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.os.is_empty() {
            return f.write_str("unknown");
        }
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

impl From<Platform> for api_shim::types::Platform {
    fn from(platform: Platform) -> Self {
        api_shim::types::Platform {
            os: platform.os,
            architecture: platform.architecture,
            variant: platform.variant,
            ..Self::default()
        }
    }
}

impl From<&api_shim::types::Platform> for Platform {
    fn from(platform: &api_shim::types::Platform) -> Self {
        Platform {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Platform {
        Platform::parse(text).unwrap()
    }

    #[test]
    fn names_of_all_kinds() {
        assert_eq!(parse("linux/x86_64").to_string(), "linux/amd64");
        assert_eq!(parse("linux/aarch64/v8").to_string(), "linux/arm64");
        assert_eq!(parse("armhf").to_string(), "linux/arm/v7");
        assert_eq!(parse("linux").os, "linux");
        for bad in ["", "a/b/c/d", "a//b", "linux/am d64"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_nearest_platform_wins() {
        let amd64 = parse("linux/amd64");
        assert_eq!(amd64.rank(&parse("linux/amd64")), Some(0));
        assert_eq!(amd64.rank(&parse("linux/amd64/v3")), None);
        assert!(parse("linux/amd64/v3").rank(&amd64) > Some(0));
        assert!(amd64.rank(&parse("linux/386")) > Some(0));
        assert_eq!(amd64.rank(&parse("linux/arm64")), None);
        assert_eq!(amd64.rank(&parse("windows/amd64")), None);
        let arm64 = parse("linux/arm64");
        assert!(arm64.rank(&parse("linux/arm/v7")) < arm64.rank(&parse("linux/arm/v6")));
        assert_eq!(parse("linux/arm/v6").rank(&parse("linux/arm/v7")), None);
    }
}
