//! Mounts that are described, not given: their kind begins with what has to be done first.
//!
//! `format/` fills in what earlier mounts of the list became: `{{ source N }}`, `{{ target N }}`,
//! `{{ mount N }}` (where it is mounted) and `{{ overlay A B }}` (the places of mounts A to B with
//! colons between). `mkdir/` makes the folders of `X-containerd.mkdir.path=dir[:mode[:uid:gid]]`;
//! `mkfs/` makes the image file that is its source, as `X-containerd.mkfs.{size,fs,uuid}` say.

use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use base_errors::{Error, Result};

use crate::Mount;

const MKFS: &str = "X-containerd.mkfs.";
const MKDIR: &str = "X-containerd.mkdir.";

/// Transformations of one mount, at most. There are three kinds of them.
const MAX_STEPS: usize = 8;
/// The most of a program's output that an error shows.
const SHOWN_OUTPUT: usize = 1024;
/// The mode of an image file.
const IMAGE_MODE: u32 = 0o640;

/// A mount of a list that has been made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveMount {
    /// What was mounted, transformed.
    pub mount: Mount,
    /// Where.
    pub mount_point: PathBuf,
    /// When.
    pub mounted_at: SystemTime,
}

/// What has to be done before a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Fill in templates.
    Format,
    /// Make folders.
    Mkdir,
    /// Make a file system in an image file.
    Mkfs,
}

impl Step {
    /// The name in kinds of mounts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Step::Format => "format",
            Step::Mkdir => "mkdir",
            Step::Mkfs => "mkfs",
        }
    }
}

/// The steps that a kind of mount begins with, and the kind that remains. A part that is no known
/// step belongs to the remaining kind.
#[must_use]
pub fn steps(kind: &str) -> (Vec<Step>, &str) {
    let mut steps = Vec::new();
    let mut rest = kind;
    while let Some((first, after)) = rest.split_once('/') {
        let step = match first {
            "format" => Step::Format,
            "mkdir" => Step::Mkdir,
            "mkfs" => Step::Mkfs,
            _ => break,
        };
        if steps.len() == MAX_STEPS {
            break;
        }
        steps.push(step);
        rest = after;
    }
    (steps, rest)
}

/// Does all steps of `mount`, whose earlier ones in the list are `active`. Folders and images are
/// made below `roots` alone; without roots, anywhere. Blocks.
///
/// # Errors
/// InvalidArgument for options or templates that make no sense, or lead out of the roots; those of
/// the system and of the programs that make file systems.
pub fn transform(mount: &Mount, active: &[ActiveMount], roots: &[PathBuf]) -> Result<Mount> {
    let (steps, kind) = steps(&mount.kind);
    let mut made = mount.clone();
    for step in steps {
        match step {
            Step::Format => format_mount(&mut made, active)?,
            Step::Mkdir => make_folders(&mut made, roots)?,
            Step::Mkfs => make_image(&mut made, roots)?,
        }
    }
    made.kind = kind.to_owned();
    Ok(made)
}

fn format_mount(mount: &mut Mount, active: &[ActiveMount]) -> Result<()> {
    mount.source = format(&mount.source, active)?;
    mount.target = format(&mount.target, active)?;
    for option in &mut mount.options {
        *option = format(option, active)?;
    }
    Ok(())
}

/// Fills in the templates of one text.
fn format(text: &str, active: &[ActiveMount]) -> Result<String> {
    let invalid = |reason: String| Error::invalid_argument(format!("template {text:?}: {reason}"));
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        filled.push_str(before);
        let (call, after) =
            after.split_once("}}").ok_or_else(|| invalid("is not closed".to_owned()))?;
        let words: Vec<&str> = call.split_whitespace().collect();
        let number = |word: &str| {
            word.parse::<usize>().map_err(|_| invalid(format!("{word:?} is no index")))
        };
        let at = |index: usize| {
            active.get(index).ok_or_else(|| {
                invalid(format!("index out of bounds: {index}, has {} active mounts", active.len()))
            })
        };
        let place = |index: usize| Ok::<_, Error>(at(index)?.mount_point.to_string_lossy());
        match words.as_slice() {
            ["source", index] => filled.push_str(&at(number(index)?)?.mount.source),
            ["target", index] => filled.push_str(&at(number(index)?)?.mount.target),
            ["mount", index] => filled.push_str(&place(number(index)?)?),
            ["overlay", first, last] => {
                let (first, last) = (number(first)?, number(last)?);
                // Both ends first: a range can be long, its mounts are few.
                at(first.max(last))?;
                let places = if first <= last {
                    (first..=last).map(place).collect::<Result<Vec<_>>>()?
                } else {
                    (last..=first).rev().map(place).collect::<Result<Vec<_>>>()?
                };
                filled.push_str(&places.join(":"));
            }
            _ => return Err(invalid(format!("{:?} is no function", call.trim()))),
        }
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// `path` if it is absolute, plain, and below one of the roots.
fn allowed<'a>(path: &'a str, roots: &[PathBuf], step: &str) -> Result<&'a Path> {
    let invalid =
        |reason: &str| Error::invalid_argument(format!("{step} source {path:?} {reason}"));
    let checked = Path::new(path);
    let plain =
        checked.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !checked.is_absolute() || !plain {
        return Err(invalid("must be an absolute path"));
    }
    if roots.is_empty() || roots.iter().any(|root| checked.starts_with(root)) {
        return Ok(checked);
    }
    Err(invalid("is outside of the allowed roots"))
}

/// As [`allowed`], for what is about to be made: no link may lead the parent elsewhere.
fn allowed_place(path: &str, roots: &[PathBuf], step: &str) -> Result<PathBuf> {
    let path = allowed(path, roots, step)?;
    let invalid = || Error::invalid_argument(format!("{step} source {path:?} has no parent"));
    let (parent, name) =
        (path.parent().ok_or_else(invalid)?, path.file_name().ok_or_else(invalid)?);
    let real = std::fs::canonicalize(parent)
        .map_err(|error| base_fs::Error::io("resolve", parent, &error))?;
    let real_roots: Vec<PathBuf> =
        roots.iter().filter_map(|root| std::fs::canonicalize(root).ok()).collect();
    if !roots.is_empty() && !real_roots.iter().any(|root| real.starts_with(root)) {
        return Err(Error::invalid_argument(format!(
            "{step} source {path:?} is outside of the allowed roots"
        )));
    }
    Ok(real.join(name))
}

fn make_folders(mount: &mut Mount, roots: &[PathBuf]) -> Result<()> {
    let mut plain = Vec::new();
    for option in std::mem::take(&mut mount.options) {
        let Some(asked) = option.strip_prefix(MKDIR) else {
            plain.push(option);
            continue;
        };
        let invalid = || Error::invalid_argument(format!("invalid mkdir option {option:?}"));
        let value = asked.strip_prefix("path=").ok_or_else(invalid)?;
        let parts: Vec<&str> = value.splitn(4, ':').collect();
        let mode = match parts.get(1) {
            None => 0o700,
            Some(text) => u32::from_str_radix(text, 8)
                .ok()
                .filter(|mode| *mode <= 0o777)
                .ok_or_else(|| Error::invalid_argument(format!("invalid mode {text}")))?,
        };
        let id = |text: &str, what: &str| {
            text.parse::<u32>()
                .map_err(|_| Error::invalid_argument(format!("invalid {what} {text:?}")))
        };
        let owner = match parts.as_slice() {
            [_] | [_, _] => None,
            [_, _, uid, gid] => Some((id(uid, "uid")?, id(gid, "gid")?)),
            _ => return Err(invalid()),
        };
        make_folder(&allowed_place(parts[0], roots, "mkdir")?, mode, owner)?;
    }
    mount.options = plain;
    Ok(())
}

fn make_folder(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
    let fail =
        |what: &'static str| move |error: std::io::Error| base_fs::Error::io(what, path, &error);
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let found = std::fs::symlink_metadata(path).map_err(fail("stat"))?;
            if !found.is_dir() {
                return Err(Error::failed_precondition(format!(
                    "mkdir target {path:?} exists and is not a directory"
                )));
            }
            // As it was left: a second activation of the same mounts finds it so.
            return Ok(());
        }
        Err(error) => return Err(fail("mkdir")(error).into()),
    }
    // Whatever the umask.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(fail("chmod"))?;
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(fail("chown"))?;
    }
    Ok(())
}

fn make_image(mount: &mut Mount, roots: &[PathBuf]) -> Result<()> {
    let (mut size, mut uuid, mut fs) = (0, String::new(), "ext4".to_owned());
    let mut plain = Vec::new();
    for option in std::mem::take(&mut mount.options) {
        let Some(asked) = option.strip_prefix(MKFS) else {
            plain.push(option);
            continue;
        };
        match asked.split_once('=') {
            Some(("size", value)) => {
                size = bytes(value).ok_or_else(|| {
                    Error::invalid_argument(format!("bad option size: invalid size: {value:?}"))
                })?;
            }
            Some(("fs", value)) => value.clone_into(&mut fs),
            Some(("uuid", value)) => value.clone_into(&mut uuid),
            _ => {
                return Err(Error::invalid_argument(format!("unknown mount option {option}")));
            }
        }
    }
    mount.options = plain;
    if size == 0 {
        return Err(Error::invalid_argument("mkfs requires mkfs.size option"));
    }
    let (program, uuid) = match fs.as_str() {
        "ext2" | "ext3" | "ext4" => (format!("mkfs.{fs}"), vec!["-U".to_owned(), uuid.clone()]),
        "xfs" => ("mkfs.xfs".to_owned(), vec!["-m".to_owned(), format!("uuid={uuid}")]),
        _ => return Err(Error::invalid_argument(format!("unsupported filesystem {fs:?}"))),
    };
    let uuid = if uuid.iter().any(|part| part.is_empty() || part.ends_with('=')) {
        Vec::new()
    } else {
        uuid
    };
    make_image_file(&allowed_place(&mount.source, roots, "mkfs")?, size, &program, &uuid)
}

/// Makes the image beside its place and renames it, so that a crash leaves none that is half made.
fn make_image_file(path: &Path, size: u64, program: &str, options: &[String]) -> Result<()> {
    let fail = |what: &'static str, error: &std::io::Error| base_fs::Error::io(what, path, error);
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => return Ok(()),
        Ok(_) => {
            return Err(Error::failed_precondition(format!(
                "mkfs backing file {path:?} exists and is not a regular file"
            )));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail("stat", &error).into()),
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let made = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(IMAGE_MODE)
        .open(&temporary)
        .and_then(|file| file.set_len(size))
        .map_err(|error| Error::from(fail("create", &error)))
        .and_then(|()| {
            let mut command = Command::new(program);
            command.arg("-q").args(options).arg(&temporary);
            run(command, program)
        })
        .and_then(|()| {
            std::fs::rename(&temporary, path).map_err(|error| fail("rename", &error).into())
        });
    if made.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    made
}

/// Runs a program to its end; its output is the error's text if it fails.
pub(crate) fn run(mut command: Command, name: &str) -> Result<()> {
    let output = command
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|error| Error::unknown(format!("{name}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let text: String = text.trim().chars().take(SHOWN_OUTPUT).collect();
    Err(Error::unknown(format!("{name} failed: {text}: {}", output.status)))
}

/// A size with an optional unit of 1024: `10`, `64M`, `1GiB`.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn active(points: &[&str]) -> Vec<ActiveMount> {
        points
            .iter()
            .map(|point| ActiveMount {
                mount: Mount {
                    source: format!("src{point}"),
                    target: format!("dst{point}"),
                    ..Mount::default()
                },
                mount_point: PathBuf::from(point),
                mounted_at: SystemTime::UNIX_EPOCH,
            })
            .collect()
    }

    #[test]
    fn kinds_are_taken_apart() {
        assert_eq!(steps("ext4"), (vec![], "ext4"));
        assert_eq!(steps("format/mkdir/overlay"), (vec![Step::Format, Step::Mkdir], "overlay"));
        assert_eq!(steps("mkfs/ext4"), (vec![Step::Mkfs], "ext4"));
        assert_eq!(steps("other/ext4"), (vec![], "other/ext4"));
        assert_eq!(steps("format/other/x"), (vec![Step::Format], "other/x"));
    }

    #[test]
    fn templates() {
        let active = active(&["/a", "/b", "/c"]);
        let ok = |text: &str| format(text, &active).expect("valid");
        assert_eq!(ok("plain"), "plain");
        assert_eq!(ok("{{ mount 0 }}/upper"), "/a/upper");
        assert_eq!(ok("{{source 1}}-{{ target 2 }}"), "src/b-dst/c");
        assert_eq!(ok("lowerdir={{ overlay 0 2 }}"), "lowerdir=/a:/b:/c");
        assert_eq!(ok("{{ overlay 2 1 }}"), "/c:/b");
        for bad in [
            "{{ mount 3 }}",
            "{{ overlay 0 3 }}",
            "{{ overlay 9999999999 0 }}",
            "{{ mount -1 }}",
            "{{ mount }}",
            "{{ exec 0 }}",
            "{{ mount 0",
        ] {
            let error = format(bad, &active).expect_err(bad);
            assert_eq!(error.class(), base_errors::Class::InvalidArgument);
        }
    }

    #[test]
    fn sizes() {
        for (text, size) in
            [("10", 10), ("4k", 4096), ("1M", 1 << 20), ("2GiB", 2 << 30), ("3mb", 3 << 20)]
        {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        for text in ["", "x", "1x", "-1", "99999999999999999999", "99999999999999T"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn folders_are_made_below_the_roots_alone() {
        let folder = tempfile::tempdir().expect("folder");
        let roots = [folder.path().join("in")];
        std::fs::create_dir(&roots[0]).expect("root");
        let mount = |path: String| Mount {
            kind: "mkdir/overlay".to_owned(),
            options: vec![format!("X-containerd.mkdir.path={path}:0750"), "ro".to_owned()],
            ..Mount::default()
        };
        let inside = roots[0].join("made");
        let made = transform(&mount(inside.display().to_string()), &[], &roots).expect("made");
        assert_eq!((made.kind.as_str(), made.options), ("overlay", vec!["ro".to_owned()]));
        let mode = std::fs::metadata(&inside).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o7777, 0o750);
        std::os::unix::fs::symlink(folder.path(), roots[0].join("link")).expect("link");
        for bad in [
            folder.path().join("out").display().to_string(),
            format!("{}/../out", roots[0].display()),
            roots[0].join("link/out").display().to_string(),
            "relative".to_owned(),
        ] {
            let error = transform(&mount(bad.clone()), &[], &roots).expect_err(&bad);
            assert_eq!(error.class(), base_errors::Class::InvalidArgument, "{error}");
        }
        assert!(!folder.path().join("out").exists());
    }

    #[test]
    fn options_of_mkfs_are_checked() {
        let folder = tempfile::tempdir().expect("folder");
        let image = folder.path().join("image");
        let mount = |options: &[&str]| Mount {
            kind: "mkfs/ext4".to_owned(),
            source: image.display().to_string(),
            options: options.iter().map(|text| format!("X-containerd.mkfs.{text}")).collect(),
            ..Mount::default()
        };
        for bad in [&[][..], &["size=x"], &["size=1M", "fs=vfat"], &["size=1M", "other=1"]] {
            let error = transform(&mount(bad), &[], &[]).expect_err("bad");
            assert_eq!(error.class(), base_errors::Class::InvalidArgument, "{error}");
            assert!(!image.exists());
        }
    }
}
