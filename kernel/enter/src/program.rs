//! The user's program: its environment, its file, its exec.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::{Declined, Order};

/// The most that is read of the container's list of users.
const MAX_USERS: u64 = 4 << 20;

/// The home of a user whom nobody knows.
const NO_HOME: &str = "/";

/// Becomes the program of the order.
pub(crate) fn run(order: &Order) -> Result<Infallible, Declined> {
    let environment = environment(&order.env, || home(order.uid))?;
    let path = find(&order.args, &environment)?;
    let path = text(path.to_string_lossy().into_owned())?;
    let strings = |of: &[String]| of.iter().cloned().map(text).collect::<Result<Vec<_>, _>>();
    let (args, env) = (strings(&order.args)?, strings(&environment)?);
    let pointers = |of: &[CString]| {
        let ends = std::iter::once(std::ptr::null());
        of.iter().map(|text| text.as_ptr()).chain(ends).collect::<Vec<_>>()
    };
    let (arg_pointers, env_pointers) = (pointers(&args), pointers(&env));
    // SAFETY: resetting a disposition has no conditions. The runtime of Rust ignores the signal,
    // and the program would inherit that.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    // SAFETY: the path and all strings are valid C strings that outlive the call, and both lists
    // end with a null pointer.
    unsafe { libc::execve(path.as_ptr(), arg_pointers.as_ptr(), env_pointers.as_ptr()) };
    Err(Declined::at("exec")(std::io::Error::last_os_error()))
}

fn text(of: String) -> Result<CString, Declined> {
    CString::new(of).map_err(|_| Declined::new("a zero byte"))
}

/// The environment with one value for each name, the last, at the place of the first; and a `HOME`.
fn environment(given: &[String], home: impl FnOnce() -> String) -> Result<Vec<String>, Declined> {
    let mut places = std::collections::HashMap::new();
    let mut environment: Vec<String> = Vec::with_capacity(given.len() + 1);
    for entry in given {
        let name = match entry.split_once('=') {
            Some((name, _)) if !name.is_empty() => name,
            _ => return Err(Declined::new("no name in the environment")),
        };
        match places.get(name) {
            Some(place) => entry.clone_into(&mut environment[*place]),
            None => {
                places.insert(name, environment.len());
                environment.push(entry.clone());
            }
        }
    }
    match places.get("HOME") {
        None => environment.push(format!("HOME={}", home())),
        Some(place) if environment[*place] == "HOME=" => {
            environment[*place] = format!("HOME={}", home());
        }
        Some(_) => {}
    }
    Ok(environment)
}

/// The home of a user, by the container's own list.
fn home(uid: u32) -> String {
    let mut users = String::new();
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open("/etc/passwd");
    if let Ok(file) = file
        && file.metadata().is_ok_and(|metadata| metadata.is_file())
    {
        let mut bytes = Vec::new();
        let _ = file.take(MAX_USERS).read_to_end(&mut bytes);
        users = String::from_utf8_lossy(&bytes).into_owned();
    }
    home_in(&users, uid).unwrap_or(NO_HOME).to_owned()
}

/// The sixth field of the first line with the user's number in the third.
fn home_in(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.trim().split(':').skip(2);
        let found = fields.next()?.parse::<u32>().ok()? == uid;
        if found { Some(fields.nth(2).unwrap_or_default()) } else { None }
    })
}

/// The file of the program.
fn find(args: &[String], environment: &[String]) -> Result<PathBuf, Declined> {
    let name = args.first().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Declined::new("no program"))?;
    let missing = || Declined::new("no such program");
    if name.contains('/') {
        let path = PathBuf::from(name);
        return if is_program(&path) { Ok(path) } else { Err(missing()) };
    }
    let folders = environment.iter().find_map(|entry| entry.strip_prefix("PATH="));
    for folder in folders.unwrap_or_default().split(':') {
        // What a relative folder means is disputed.
        if !folder.starts_with('/') {
            return Err(Declined::new("a relative search path"));
        }
        let path = Path::new(folder).join(name);
        if is_program(&path) {
            return Ok(path);
        }
    }
    Err(missing())
}

/// True if it is no folder and somebody may run it.
fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| !metadata.is_dir() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(of: &[&str]) -> Vec<String> {
        of.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_last_value_of_a_name_counts_at_the_place_of_the_first() {
        let given = strings(&["A=1", "B=2", "A=3=4", "HOME=/h"]);
        let environment = environment(&given, || unreachable!("it has one")).unwrap();
        assert_eq!(environment, ["A=3=4", "B=2", "HOME=/h"]);
    }

    #[test]
    fn a_home_is_added_where_none_is_told() {
        let home = || "/root".to_owned();
        assert_eq!(environment(&[], home).unwrap(), ["HOME=/root"]);
        assert_eq!(environment(&strings(&["HOME=", "A="]), home).unwrap(), ["HOME=/root", "A="]);
        for bad in ["", "A", "=1"] {
            environment(&strings(&[bad]), home).unwrap_err();
        }
    }

    #[test]
    fn homes_are_found_by_number() {
        let users = "# users\nroot:x:0:0:root:/root:/bin/sh\n\nbroken:x\nweb:x:33:33::/var/www:\nshort:x:7:7\n";
        assert_eq!(home_in(users, 0), Some("/root"));
        assert_eq!(home_in(users, 33), Some("/var/www"));
        assert_eq!(home_in(users, 7), Some(""));
        assert_eq!(home_in(users, 1), None);
    }

    #[test]
    fn programs_are_searched_in_order() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let (first, second) = (folder.path().join("1"), folder.path().join("2"));
        for folder in [&first, &second] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("tool"), "").unwrap();
        }
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(second.join("tool"), mode).unwrap();
        let path = format!("PATH={}:{}", first.display(), second.display());
        let environment = [path];
        let find = |name: &str| find(&strings(&[name]), &environment);
        assert_eq!(find("tool").unwrap(), second.join("tool"), "the first may not be run");
        let direct = second.join("tool");
        assert_eq!(find(direct.to_str().unwrap()).unwrap(), direct);
        find("2").unwrap_err();
        find(second.to_str().unwrap()).unwrap_err();
        find("").unwrap_err();
        super::find(&strings(&["tool"]), &strings(&["PATH=bin:/usr/bin"])).unwrap_err();
        super::find(&[], &[]).unwrap_err();
    }
}
