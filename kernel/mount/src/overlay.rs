//! Overlays whose options do not fit in the one page that `mount(2)` copies.
//!
//! Three ways, tried in this order, so that what shows in the mount table stays what tools parse:
//! the options as they are; the lower folders relative to the folder they share, mounted by a
//! thread that has that working directory; one `lowerdir+` after the other (kernel 6.8).

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use rustix::thread::UnshareFlags;

use crate::error::Failure;
use crate::mount::{Place, call_mount};
use crate::options::Options;
use crate::thread;

/// Room kept in the page, as containerd keeps it.
const PAGE_RESERVE: usize = 512;

/// Mounts an overlay at `place`.
pub(crate) fn mount(source: &str, place: &Place, options: &Options) -> Result<(), Failure> {
    let page = rustix::param::page_size();
    let data = options.joined();
    if data.len() < page - PAGE_RESERVE {
        return place.with_path(|path| call_mount(source, path, "overlay", options.flags, &data));
    }
    if let Some((folder, data)) = compact(&options.data)
        && data.len() < page
    {
        return in_folder(&folder, || {
            place.with_path(|path| call_mount(source, path, "overlay", options.flags, &data))
        });
    }
    let tree = build(source, options)?;
    place.attach(&tree)
}

/// Runs `act` on a thread whose working directory is `folder`. The process's own stays.
fn in_folder(
    folder: &str,
    act: impl FnOnce() -> Result<(), Failure> + Send,
) -> Result<(), Failure> {
    thread::apart(UnshareFlags::FS, || {
        rustix::process::chdir(folder).map_err(Failure::at("chdir to lowerdir"))?;
        act()
    })
}

/// The folder that all lower folders share, and the joined data with the lower ones relative to it.
/// Nothing if there is no such folder.
fn compact(data: &[String]) -> Option<(String, String)> {
    let lower = data.iter().find_map(|option| option.strip_prefix("lowerdir="))?;
    let layers = split_layers(lower);
    if layers.len() < 2 || layers.iter().any(|layer| !layer.starts_with('/')) {
        return None;
    }
    let first = layers[0];
    let shared = layers.iter().skip(1).fold(first.len(), |shared, layer| {
        first.bytes().zip(layer.bytes()).take(shared).take_while(|(a, b)| a == b).count()
    });
    let cut = first[..floor(first, shared)].rfind('/')?;
    // An escape in the folder would have to be taken out for chdir; such folders are rare.
    if cut == 0 || first[..cut].contains('\\') {
        return None;
    }
    let relative: Vec<&str> = layers.iter().map(|layer| &layer[cut + 1..]).collect();
    if relative.iter().any(|layer| layer.is_empty()) {
        return None;
    }
    let relative = relative.join(":");
    let joined: Vec<String> = data
        .iter()
        .map(|option| match option.strip_prefix("lowerdir=") {
            Some(_) => format!("lowerdir={relative}"),
            None => option.clone(),
        })
        .collect();
    Some((first[..cut].to_owned(), joined.join(",")))
}

/// The nearest character boundary at or below `index`.
fn floor(text: &str, index: usize) -> usize {
    (0..=index).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Splits a `lowerdir` value at colons that no backslash protects.
pub(crate) fn split_layers(lower: &str) -> Vec<&str> {
    let mut layers = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, character) in lower.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ':' => {
                layers.push(&lower[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    layers.push(&lower[start..]);
    layers
}

/// Takes the backslashes out of a layer's path.
pub(crate) fn unescape(layer: &str) -> String {
    let mut plain = String::with_capacity(layer.len());
    let mut characters = layer.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => plain.extend(characters.next()),
            other => plain.push(other),
        }
    }
    plain
}

/// Builds a detached overlay, layer by layer.
fn build(source: &str, options: &Options) -> Result<OwnedFd, Failure> {
    let too_long = |_| Failure::Invalid("mount options is too long".to_owned());
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(Failure::at("fsopen"))?;
    fsconfig_set_string(&context, "source", source).map_err(Failure::at("fsconfig source"))?;
    for option in &options.data {
        match option.split_once('=') {
            Some(("lowerdir", layers)) => {
                let mut key = "lowerdir+";
                for layer in split_layers(layers) {
                    if layer.is_empty() {
                        // "::" begins the layers that hold data alone.
                        key = "datadir+";
                        continue;
                    }
                    // Kernels without `lowerdir+` say EINVAL, as do layers over 255 bytes.
                    fsconfig_set_string(&context, key, unescape(layer)).map_err(too_long)?;
                }
            }
            Some((key, value)) => {
                fsconfig_set_string(&context, key, value).map_err(Failure::at("fsconfig option"))?
            }
            None => fsconfig_set_flag(&context, option.as_str())
                .map_err(Failure::at("fsconfig option"))?,
        }
    }
    if options.flags & libc::MS_RDONLY != 0 {
        fsconfig_set_flag(&context, "ro").map_err(Failure::at("fsconfig option"))?;
    }
    fsconfig_create(&context).map_err(Failure::at("fsconfig create"))?;
    let mut attributes = MountAttrFlags::empty();
    for (flag, attribute) in [
        (libc::MS_RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (libc::MS_NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (libc::MS_NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (libc::MS_NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (libc::MS_NODIRATIME, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
        (libc::MS_NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
        (libc::MS_STRICTATIME, MountAttrFlags::MOUNT_ATTR_STRICTATIME),
    ] {
        if options.flags & flag != 0 {
            attributes |= attribute;
        }
    }
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(Failure::at("fsmount"))
}

/// Takes the upper and work folder out; the upper one becomes the topmost lower one.
pub(crate) fn make_read_only(options: &mut Vec<String>) {
    let upper =
        options.iter().find_map(|option| option.strip_prefix("upperdir=")).map(str::to_owned);
    options.retain(|option| !option.starts_with("upperdir=") && !option.starts_with("workdir="));
    let Some(upper) = upper else { return };
    for option in options {
        if let Some(lower) = option.strip_prefix("lowerdir=") {
            *option = format!("lowerdir={upper}:{lower}");
        }
    }
}

/// Calls `mount(2)` for an overlay of plain parts, for callers that are on a thread of their own.
pub(crate) fn mount_here(
    source: &str,
    target: &Path,
    options: &Options,
    data: &str,
) -> Result<(), Failure> {
    if data.len() >= rustix::param::page_size() {
        return Err(Failure::Invalid("mount options is too long".to_owned()));
    }
    call_mount(source, target, "overlay", options.flags, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_folders_become_relative_to_the_one_they_share() {
        let data = vec!["lowerdir=/a/b/12/fs:/a/b/1/fs".to_owned(), "index=off".to_owned()];
        assert_eq!(
            compact(&data),
            Some(("/a/b".to_owned(), "lowerdir=12/fs:1/fs,index=off".to_owned()))
        );
        assert_eq!(compact(&["lowerdir=/a:/b".to_owned()]), None);
        assert_eq!(compact(&["lowerdir=/a/b".to_owned()]), None);
        assert_eq!(
            compact(&["lowerdir=/a/é/x:/a/è/x".to_owned()]).map(|found| found.0).as_deref(),
            Some("/a")
        );
        assert_eq!(
            compact(&["lowerdir=/a/b:/a/b/c".to_owned()]).map(|found| found.1).as_deref(),
            Some("lowerdir=b:b/c")
        );
    }

    #[test]
    fn colons_with_a_backslash_do_not_split() {
        assert_eq!(split_layers(r"/a\:b:/c"), [r"/a\:b", "/c"]);
        assert_eq!(unescape(r"/a\:b\\"), r"/a:b\");
    }

    #[test]
    fn a_read_only_overlay_has_its_upper_folder_on_top_of_the_lower_ones() {
        let mut options: Vec<String> =
            ["workdir=/w", "upperdir=/u", "lowerdir=/l1:/l2", "index=off"]
                .map(str::to_owned)
                .into();
        make_read_only(&mut options);
        assert_eq!(options, ["lowerdir=/u:/l1:/l2", "index=off"]);
    }
}
