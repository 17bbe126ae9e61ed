//! Image references: docker's short and long spelling, tag and digest.

use base_ident::Digest;

use crate::TransferError;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";

/// The longest repository name, by the distribution specification.
const MAX_NAME: usize = 255;
/// The longest tag.
const MAX_TAG: usize = 128;

/// A reference in its parts.
#[derive(Debug, PartialEq, Eq)]
struct Reference<'a> {
    name: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

impl<'a> Reference<'a> {
    fn split(text: &'a str) -> Self {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A colon in the last part is a tag; before that it is a port.
        let start = rest.rfind('/').map_or(0, |slash| slash + 1);
        match rest[start..].split_once(':') {
            Some((last, tag)) => {
                Reference { name: &rest[..start + last.len()], tag: Some(tag), digest }
            }
            None => Reference { name: rest, tag: None, digest },
        }
    }
}

/// The full form of what people type: `alpine` is `docker.io/library/alpine:latest`.
///
/// # Errors
/// [`TransferError::Reference`] for what the grammar of references does not allow.
pub fn normalize(text: &str) -> Result<String, TransferError> {
    let bad = || TransferError::Reference { name: text.to_owned() };
    let Reference { name, tag, digest } = Reference::split(text);
    // 64 hex digits alone are an id, not a name.
    if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(bad());
    }
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (if first == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { first }, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    };
    let official = if domain == DEFAULT_DOMAIN && !path.contains('/') { OFFICIAL } else { "" };
    let name = format!("{domain}/{official}{path}");
    let is_valid = is_domain(domain)
        && path.split('/').all(is_component)
        && name.len() <= MAX_NAME
        && tag.is_none_or(is_tag)
        && digest.is_none_or(|digest| Digest::parse(digest).is_ok());
    if !is_valid {
        return Err(bad());
    }
    Ok(match (tag, digest) {
        // COMPAT: with a digest, docker's references drop the tag.
        (_, Some(digest)) => format!("{name}@{digest}"),
        (Some(tag), None) => format!("{name}:{tag}"),
        (None, None) => format!("{name}:{DEFAULT_TAG}"),
    })
}

/// The short form: `docker.io/library/alpine:3` is `alpine:3`.
///
/// # Errors
/// As [`normalize`].
pub fn familiar(text: &str) -> Result<String, TransferError> {
    let full = normalize(text)?;
    let short =
        full.strip_prefix(DEFAULT_DOMAIN).and_then(|rest| rest.strip_prefix('/')).unwrap_or(&full);
    let official = short.strip_prefix(OFFICIAL).filter(|rest| !rest.contains('/'));
    Ok(official.unwrap_or(short).to_owned())
}

/// The tag or digest of a full name, which is what OCI calls the name of a reference; the whole
/// name if it is no reference.
#[must_use]
pub fn reference_object(name: &str) -> &str {
    let Some((host, path)) = name.split_once('/') else { return name };
    if host.is_empty() {
        return name;
    }
    match path.find([':', '@']) {
        Some(place) => &path[place + 1..],
        None => "",
    }
}

/// Gives a tag `prefix` as its repository; a full name stays, if `must_match` only one that has the
/// prefix. None: the name is not for this prefix.
pub(crate) fn with_prefix(prefix: &str, name: &str, must_match: bool) -> Option<String> {
    if prefix.is_empty() {
        return None;
    }
    if !name.contains(['/', ':', '@']) {
        return Some(format!("{prefix}:{name}"));
    }
    let has_prefix = name
        .strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']));
    (!must_match || has_prefix).then(|| name.to_owned())
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !domain.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    (is_address || host.split('.').all(is_part))
        && port
            .is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Lower-case words with `.`, `_`, `__` or dashes between them.
fn is_component(component: &str) -> bool {
    let mut rest = component;
    loop {
        let word =
            rest.bytes().take_while(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let length = word.count();
        if length == 0 {
            return false;
        }
        rest = &rest[length..];
        if rest.is_empty() {
            return true;
        }
        let dashes = rest.bytes().take_while(|byte| *byte == b'-').count();
        let separator = match rest.as_bytes() {
            _ if dashes > 0 => dashes,
            [b'_', b'_', ..] => 2,
            [b'.' | b'_', ..] => 1,
            _ => return false,
        };
        rest = &rest[separator..];
    }
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !tag.is_empty()
        && tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_become_full() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (short, full) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.19", "docker.io/library/alpine:3.19"),
            ("user/app", "docker.io/user/app:latest"),
            ("index.docker.io/library/alpine", "docker.io/library/alpine:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:1", "localhost:5000/app:1"),
            ("reg.io/a/b__c/d--e.f:T-1.x_", "reg.io/a/b__c/d--e.f:T-1.x_"),
        ] {
            assert_eq!(normalize(short).unwrap(), full, "{short}");
        }
        let with_digest = format!("alpine:3@{digest}");
        assert_eq!(normalize(&with_digest).unwrap(), format!("docker.io/library/alpine@{digest}"));
        for bad in [
            "",
            "UPPER",
            "a:",
            "a:-x",
            "a//b",
            "a@sha256:12",
            "-a",
            "a..b",
            "a/b:t/c",
            ":x",
            &"a".repeat(64),
            &"b".repeat(300),
        ] {
            assert!(normalize(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn full_names_become_short() {
        for (full, short) in [
            ("docker.io/library/alpine:latest", "alpine:latest"),
            ("docker.io/user/app:1", "user/app:1"),
            ("reg.io/app:1", "reg.io/app:1"),
        ] {
            assert_eq!(familiar(full).unwrap(), short);
        }
    }

    #[test]
    fn objects_and_prefixes() {
        assert_eq!(reference_object("docker.io/library/a:1"), "1");
        assert_eq!(reference_object("host:5000/a"), "");
        assert_eq!(reference_object("host:5000/a@sha256:x"), "sha256:x");
        assert_eq!(reference_object("plain"), "plain");
        assert_eq!(with_prefix("r.io/a", "1", true).as_deref(), Some("r.io/a:1"));
        assert_eq!(with_prefix("r.io/a", "r.io/a:2", true).as_deref(), Some("r.io/a:2"));
        assert_eq!(with_prefix("r.io/a", "r.io/abc:2", true), None);
        assert_eq!(with_prefix("r.io/a", "r.io/abc:2", false).as_deref(), Some("r.io/abc:2"));
        assert_eq!(with_prefix("", "x", false), None);
    }
}
