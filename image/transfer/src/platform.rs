//! Platforms: which image runs here.

use serde::{Deserialize, Serialize};

/// A platform as image documents spell it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Processor: `amd64`, `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// Operating system: `linux`.
    #[serde(default)]
    pub os: String,
    /// Version of the operating system.
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Features of the operating system.
    #[serde(rename = "os.features", default, skip_serializing_if = "Option::is_none")]
    pub os_features: Option<Vec<String>>,
    /// Variant of the processor: `v7`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// The platform of this machine.
    #[must_use]
    pub fn host() -> Self {
        Platform {
            architecture: std::env::consts::ARCH.to_owned(),
            os: "linux".to_owned(),
            ..Platform::default()
        }
        .normalized()
    }

    /// Parses `os`, `arch`, `os/arch` or `os/arch/variant`. What is left out is this machine's.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let host = Platform::host();
        let is_word = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| is_word(part)) {
            return None;
        }
        let platform = match parts[..] {
            [word] if is_known_os(word) => Platform { os: word.to_owned(), ..host },
            [word] => Platform { architecture: word.to_owned(), variant: String::new(), ..host },
            [os, architecture] => Platform {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
                ..Platform::default()
            },
            [os, architecture, variant] => Platform {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
                variant: variant.to_owned(),
                ..Platform::default()
            },
            _ => return None,
        };
        Some(platform.normalized())
    }

    /// The usual spelling: `x86_64` is `amd64`, `aarch64` is `arm64`.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let os = match self.os.to_ascii_lowercase().as_str() {
            "" => "linux".to_owned(),
            "macos" => "darwin".to_owned(),
            os => os.to_owned(),
        };
        let variant = self.variant.to_ascii_lowercase();
        let (architecture, variant) = match self.architecture.to_ascii_lowercase().as_str() {
            "i386" => ("386".to_owned(), String::new()),
            "x86_64" | "x86-64" | "amd64" => {
                ("amd64".to_owned(), if variant == "v1" { String::new() } else { variant })
            }
            "aarch64" | "arm64" => {
                let is_plain = matches!(variant.as_str(), "8" | "v8" | "v8.0");
                ("arm64".to_owned(), if is_plain { String::new() } else { variant })
            }
            "armhf" => ("arm".to_owned(), "v7".to_owned()),
            "armel" => ("arm".to_owned(), "v6".to_owned()),
            "arm" => {
                let variant = match variant.as_str() {
                    "" | "7" => "v7".to_owned(),
                    "5" | "6" | "8" => format!("v{variant}"),
                    _ => variant,
                };
                ("arm".to_owned(), variant)
            }
            other => (other.to_owned(), variant),
        };
        Platform { architecture, os, variant, ..self.clone() }
    }

    /// `os/arch[/variant]`.
    #[must_use]
    pub fn text(&self) -> String {
        let Platform { os, architecture, variant, .. } = self;
        match variant.as_str() {
            "" => format!("{os}/{architecture}"),
            variant => format!("{os}/{architecture}/{variant}"),
        }
    }

    fn is_same(&self, other: &Platform) -> bool {
        let (one, other) = (self.normalized(), other.normalized());
        one.os == other.os
            && one.architecture == other.architecture
            && one.variant == other.variant
            && (one.os_version.is_empty()
                || other.os_version.is_empty()
                || one.os_version == other.os_version)
    }

    /// This platform and those whose programs it runs as well, the best first.
    fn with_compatible(&self) -> Vec<Platform> {
        let this = self.normalized();
        let with = |architecture: &str, variant: &str| Platform {
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            ..this.clone()
        };
        let number: u32 =
            this.variant.strip_prefix('v').and_then(|digits| digits.parse().ok()).unwrap_or(0);
        let mut list = vec![this.clone()];
        match this.architecture.as_str() {
            "amd64" => {
                list.extend((2..number).rev().map(|lower| with("amd64", &format!("v{lower}"))));
                if number > 1 {
                    list.push(with("amd64", ""));
                }
                list.push(with("386", ""));
            }
            "arm64" => list.extend(["v8", "v7", "v6", "v5"].map(|variant| with("arm", variant))),
            "arm" => {
                list.extend((5..number).rev().map(|lower| with("arm", &format!("v{lower}"))));
            }
            _ => {}
        }
        list
    }
}

fn is_known_os(word: &str) -> bool {
    matches!(
        word,
        "linux" | "windows" | "darwin" | "macos" | "freebsd" | "netbsd" | "openbsd" | "solaris"
    )
}

/// Which platforms are wanted, and which of two is the better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matcher {
    /// Any.
    All,
    /// These, the first the best.
    Ordered(Vec<Platform>),
}

impl Matcher {
    /// Exactly one of `platforms`; all, if there is none.
    #[must_use]
    pub fn ordered(platforms: &[Platform]) -> Self {
        match platforms {
            [] => Matcher::All,
            platforms => Matcher::Ordered(platforms.to_vec()),
        }
    }

    /// Whatever runs on `platform`.
    #[must_use]
    pub fn runs_on(platform: &Platform) -> Self {
        Matcher::Ordered(platform.with_compatible())
    }

    /// True if `platform` is wanted.
    #[must_use]
    pub fn matches(&self, platform: &Platform) -> bool {
        self.rank(platform).is_some()
    }

    /// The place in the order of preference: smaller is better, None is not wanted.
    #[must_use]
    pub fn rank(&self, platform: &Platform) -> Option<usize> {
        match self {
            Matcher::All => Some(0),
            Matcher::Ordered(list) => list.iter().position(|wanted| wanted.is_same(platform)),
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
    fn spellings_of_one_platform_are_the_same() {
        assert_eq!(parse("linux/x86_64"), parse("linux/amd64"));
        assert_eq!(parse("linux/aarch64/v8"), parse("linux/arm64"));
        assert_eq!(parse("linux/arm"), parse("linux/arm/v7"));
        assert_eq!(parse("linux/armhf").text(), "linux/arm/v7");
        assert_eq!(Platform::parse(""), None);
        assert_eq!(Platform::parse("a/b/c/d"), None);
        assert_eq!(parse("linux").os, "linux");
        assert_eq!(parse("s390x").text(), "linux/s390x");
    }

    #[test]
    fn better_platforms_come_first() {
        let matcher = Matcher::runs_on(&parse("linux/arm64"));
        assert_eq!(matcher.rank(&parse("linux/arm64")), Some(0));
        assert!(matcher.rank(&parse("linux/arm/v7")) < matcher.rank(&parse("linux/arm/v6")));
        assert!(!matcher.matches(&parse("linux/amd64")));
        assert!(!matcher.matches(&parse("windows/arm64")));
        assert!(Matcher::runs_on(&parse("linux/amd64")).matches(&parse("linux/386")));
        assert!(!Matcher::ordered(&[parse("linux/amd64")]).matches(&parse("linux/386")));
        assert!(Matcher::ordered(&[]).matches(&parse("plan9/mips")));
    }
}
