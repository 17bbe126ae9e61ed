//! `USER` values and the container's own `/etc/passwd` and `/etc/group`.

use std::path::Path;

use base_fs::Root;

use crate::{ProcessUser, SpecError};

/// The most that is read of a passwd or group file.
const MAX_FILE: u64 = 16 << 20;

/// Who a `USER` value means in a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Main group.
    pub gid: u32,
    /// All groups, the main one first.
    pub groups: Vec<u32>,
}

/// A line of `/etc/passwd`.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

impl User {
    /// Looks a `USER` value (`user`, `user:group`, names or numbers) up below `rootfs`.
    ///
    /// As in containerd: a number that has no account keeps group 0, and the groups that list the
    /// account as a member are added.
    ///
    /// # Errors
    /// [`SpecError`] if a name is not found, or if it needs a root file system and there is none.
    pub fn resolve(value: &str, rootfs: Option<&Path>) -> Result<Self, SpecError> {
        let (user, group) = match value.split_once(':') {
            Some((_, group)) if group.contains(':') => {
                return Err(SpecError::UserFormat(value.to_owned()));
            }
            Some((user, group)) => (user, Some(group)),
            None => (value, None),
        };
        let (passwd, groups) = match rootfs {
            Some(rootfs) => {
                let root = Root::open(rootfs).map_err(SpecError::Rootfs)?;
                (read(&root, "etc/passwd")?, read(&root, "etc/group")?)
            }
            None => (None, None),
        };
        let found = |matches: &dyn Fn(&Account<'_>) -> bool| {
            passwd.as_deref().and_then(|text| accounts(text).find(|account| matches(account)))
        };
        let (uid, own_gid, name) = match user.parse::<u32>() {
            Ok(uid) => match found(&|account| account.uid == uid) {
                Some(account) => (uid, account.gid, Some(account.name.to_owned())),
                None => (uid, 0, None),
            },
            Err(_) => match found(&|account| account.name == user) {
                Some(account) => (account.uid, account.gid, Some(account.name.to_owned())),
                None if rootfs.is_none() => return Err(SpecError::NoRootfs(user.to_owned())),
                None => return Err(SpecError::UserNotFound(user.to_owned())),
            },
        };
        let group_text = groups.as_deref().unwrap_or_default();
        let gid = match group {
            None => own_gid,
            Some(group) => match group.parse() {
                Ok(gid) => gid,
                Err(_) => members(group_text)
                    .find(|(name, ..)| *name == group)
                    .map(|(_, gid, _)| gid)
                    .ok_or_else(|| SpecError::GroupNotFound(group.to_owned()))?,
            },
        };
        let mut all = vec![gid];
        if let Some(account) = name {
            for (_, gid, mut list) in members(group_text) {
                if list.any(|member| member == account) && !all.contains(&gid) {
                    all.push(gid);
                }
            }
        }
        Ok(User { uid, gid, groups: all })
    }
}

impl From<User> for ProcessUser {
    fn from(user: User) -> Self {
        ProcessUser { uid: user.uid, gid: user.gid, additional_gids: user.groups }
    }
}

/// A file below the root; one that is not there has no content.
fn read(root: &Root, path: &str) -> Result<Option<String>, SpecError> {
    match root.read(path, MAX_FILE) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(SpecError::Rootfs(error)),
    }
}

/// `name:password:uid:gid:…`; lines that are not are skipped.
fn accounts(text: &str) -> impl Iterator<Item = Account<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account { name, uid, gid })
    })
}

/// `name:password:gid:member,member`; lines that are not are skipped.
fn members(text: &str) -> impl Iterator<Item = (&str, u32, std::str::Split<'_, char>)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default().split(',')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn rootfs() -> tempfile::TempDir {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\ndaemon:x:1:1::/:/bin/false\n\
                      web:x:1000:1001::/home/web:/bin/sh\n";
        fs::write(folder.path().join("etc/passwd"), passwd).unwrap();
        let group = "root:x:0:\nadm:x:4:daemon,web\nweb:x:1001:\nvideo:x:44:web\n";
        fs::write(folder.path().join("etc/group"), group).unwrap();
        folder
    }

    #[test]
    fn names_and_numbers_are_looked_up() {
        let folder = rootfs();
        let user = |value: &str| {
            User::resolve(value, Some(folder.path())).map(|user| (user.uid, user.gid, user.groups))
        };
        assert_eq!(user("web").unwrap(), (1000, 1001, vec![1001, 4, 44]));
        assert_eq!(user("1000").unwrap(), (1000, 1001, vec![1001, 4, 44]));
        assert_eq!(user("web:root").unwrap(), (1000, 0, vec![0, 4, 44]));
        assert_eq!(user("5000").unwrap(), (5000, 0, vec![0]));
        assert_eq!(user("5000:6000").unwrap(), (5000, 6000, vec![6000]));
        assert_eq!(user("root").unwrap(), (0, 0, vec![0]));
        assert!(matches!(user("nobody"), Err(SpecError::UserNotFound(_))));
        assert!(matches!(user("web:none"), Err(SpecError::GroupNotFound(_))));
        assert!(matches!(user("a:b:c"), Err(SpecError::UserFormat(_))));
    }

    #[test]
    fn numbers_need_no_files() {
        let user = User::resolve("7:8", None).unwrap();
        assert_eq!((user.uid, user.gid), (7, 8));
        assert!(matches!(User::resolve("web", None), Err(SpecError::NoRootfs(_))));
        let empty = tempfile::tempdir_in("/dev/shm").unwrap();
        assert_eq!(User::resolve("7", Some(empty.path())).unwrap().gid, 0);
    }

    #[test]
    fn links_do_not_lead_out_of_the_root() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(folder.path().join("passwd"), "evil:x:0:0::/:/bin/sh\n").unwrap();
        std::os::unix::fs::symlink("../../passwd", root.join("etc/passwd")).unwrap();
        assert!(matches!(User::resolve("evil", Some(&root)), Err(SpecError::UserNotFound(_))));
    }
}
