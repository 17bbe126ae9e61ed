//! Who the process is: limits, keyring, capabilities, user, groups.

use std::ffi::CString;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::{Declined, Order};

/// The number of `/dev/null`.
const NULL: (u32, u32) = (1, 3);

/// `KEYCTL_JOIN_SESSION_KEYRING` of `keyctl(2)`.
const JOIN_SESSION_KEYRING: libc::c_long = 1;

/// Sets the limits, while there is the power to raise them.
pub(crate) fn limits(order: &Order) -> Result<(), Declined> {
    for limit in &order.limits {
        let value = libc::rlimit64 { rlim_cur: limit.soft, rlim_max: limit.hard };
        // SAFETY: the structure outlives the call; an unknown resource is an error of the system.
        let result = unsafe { libc::setrlimit64(limit.resource, &raw const value) };
        if result != 0 {
            let error = std::io::Error::last_os_error();
            return Err(Declined::at("set a limit")(error));
        }
    }
    Ok(())
}

/// Joins the container's session keyring.
pub(crate) fn keyring(order: &Order) -> Result<(), Declined> {
    let Some(name) = &order.keyring else { return Ok(()) };
    let name = CString::new(name.as_str()).map_err(Declined::at("name of the keyring"))?;
    // SAFETY: the name is a valid C string.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    let error = std::io::Error::last_os_error();
    // A kernel without keyrings has none to join.
    if result < 0 && error.raw_os_error() != Some(libc::ENOSYS) {
        return Err(Declined::at("join the keyring")(error));
    }
    Ok(())
}

/// Becomes the user, with the capabilities of the order and no others.
pub(crate) fn take(order: &Order) -> Result<(), Declined> {
    if order.no_new_privileges {
        set_no_new_privs(true).map_err(Declined::at("give up new privileges"))?;
    }
    let sets = order.capabilities;
    bound(sets.bounding)?;
    set_keep_capabilities(true).map_err(Declined::at("keep capabilities"))?;
    own_streams(order.uid)?;
    let groups: Vec<Gid> = order.additional_gids.iter().map(|gid| Gid::from_raw(*gid)).collect();
    set_thread_groups(&groups).map_err(Declined::at("set groups"))?;
    let (gid, uid) = (Gid::from_raw(order.gid), Uid::from_raw(order.uid));
    set_thread_res_gid(gid, gid, gid).map_err(Declined::at("set the group"))?;
    set_thread_res_uid(uid, uid, uid).map_err(Declined::at("set the user"))?;
    set_keep_capabilities(false).map_err(Declined::at("keep capabilities"))?;
    let set = CapabilitySet::from_bits_retain;
    let wanted = CapabilitySets {
        effective: set(sets.effective),
        permitted: set(sets.permitted),
        inheritable: set(sets.inheritable),
    };
    set_capabilities(None, wanted).map_err(Declined::at("set capabilities"))?;
    clear_ambient_capability_set().map_err(Declined::at("set ambient capabilities"))?;
    for capability in bits(sets.ambient) {
        configure_capability_in_ambient_set(set(capability), true)
            .map_err(Declined::at("set ambient capabilities"))?;
    }
    Ok(())
}

/// Leaves these capabilities to be had, and no others that this kernel knows.
fn bound(keep: u64) -> Result<(), Declined> {
    for capability in bits(!keep) {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(capability)) {
            Ok(()) => {}
            // The first one that the kernel does not know.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(Declined::at("drop a capability")(errno)),
        }
    }
    Ok(())
}

/// The single bits of a set, the lowest first.
fn bits(set: u64) -> impl Iterator<Item = u64> {
    (0..u64::BITS).map(|bit| 1 << bit).filter(move |bit| set & bit != 0)
}

/// Gives the standard streams to the user, who may want to open them again by their names. Not
/// `/dev/null`, which is everybody's.
fn own_streams(uid: u32) -> Result<(), Declined> {
    for number in 0..=2 {
        // SAFETY: the standard streams are open in every program of Rust.
        let stream = unsafe { BorrowedFd::borrow_raw(number) };
        let stat = rustix::fs::fstat(stream).map_err(Declined::at("look at a stream"))?;
        let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        if stat.st_uid == uid || device == NULL {
            continue;
        }
        match rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), None) {
            // Read-only, or of a file system without owners, or of another's: as good as it gets.
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
            Err(errno) => return Err(Declined::at("give a stream to the user")(errno)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_told_one_by_one() {
        assert_eq!(bits(0b1010).collect::<Vec<_>>(), [2, 8]);
        assert_eq!(bits(1 << 63).collect::<Vec<_>>(), [1 << 63]);
        assert_eq!(bits(!0).count(), 64);
    }
}
