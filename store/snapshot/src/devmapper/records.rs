//! `<pool>.db`: the devices of a pool and their numbers, byte for byte containerd's.
//!
//! ```text
//! devices/<name> = JSON of the device
//! device_ids/<decimal number> = one byte: 0 free, 1 taken, 2 faulty
//! ```
//!
//! The sequence of `device_ids` is the last number that was ever given; free ones are given first.

use std::path::Path;

use base_errors::{Error, Result};
use serde::{Deserialize, Serialize};
use store_bolt::{Bucket, Db, Options, WriteTx};

const DEVICES: &[u8] = b"devices";
const DEVICE_IDS: &[u8] = b"device_ids";
/// Numbers of thin devices have 24 bits.
const MAX_DEVICE_ID: u64 = 0xff_ffff;

const FREE: u8 = 0;
const TAKEN: u8 = 1;
const BROKEN: u8 = 2;

/// What happens, or happened last, to a device. The order is the number on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Unknown,
    Creating,
    Created,
    Activating,
    Activated,
    Suspending,
    Suspended,
    Resuming,
    Resumed,
    Deactivating,
    Deactivated,
    Removing,
    Removed,
    Faulty,
}

const STATES: [State; 14] = [
    State::Unknown,
    State::Creating,
    State::Created,
    State::Activating,
    State::Activated,
    State::Suspending,
    State::Suspended,
    State::Resuming,
    State::Resumed,
    State::Deactivating,
    State::Deactivated,
    State::Removing,
    State::Removed,
    State::Faulty,
];

/// A device as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Device {
    #[serde(default)]
    pub(super) device_id: u32,
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) parent_name: String,
    #[serde(default)]
    state: i64,
    #[serde(default)]
    pub(super) error: String,
}

impl Device {
    pub(super) fn new(name: &str, parent: &str, size: u64) -> Self {
        Device {
            device_id: 0,
            size,
            name: name.to_owned(),
            parent_name: parent.to_owned(),
            state: 0,
            error: String::new(),
        }
    }

    pub(super) fn state(&self) -> State {
        let known = usize::try_from(self.state).ok().and_then(|at| STATES.get(at).copied());
        known.unwrap_or(State::Unknown)
    }

    pub(super) fn set_state(&mut self, state: State) {
        self.state = STATES
            .iter()
            .position(|known| *known == state)
            .and_then(|at| i64::try_from(at).ok())
            .unwrap_or(0);
    }

    /// Nobody works with it any more.
    pub(super) fn is_garbage(&self) -> bool {
        matches!(self.state(), State::Removed | State::Faulty)
    }
}

/// The open records of a pool.
#[derive(Clone, Debug)]
pub(super) struct Records(Db);

impl Records {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let options = Options { store_freelist: true, mode: 0o600, ..Options::default() };
        let records = Records(Db::open(path, options)?);
        records.0.update(|tx| -> Result<()> {
            tx.create_bucket_if_missing(&[DEVICES])?;
            tx.create_bucket_if_missing(&[DEVICE_IDS])?;
            Ok(())
        })?;
        Ok(records)
    }

    /// Adds a device and gives it a number.
    pub(super) fn add(&self, mut device: Device) -> Result<Device> {
        let name = device.name.clone();
        self.0
            .update(move |tx| -> Result<Device> {
                // A faulty one is made again, under another number.
                match get(tx.read(), &device.name)? {
                    Some(existing) if existing.state() != State::Faulty => {
                        return Err(Error::already_exists(format!(
                            "device {:?} is already there",
                            device.name
                        )));
                    }
                    _ => {}
                }
                device.device_id = next_id(tx)?;
                put(tx, &device)?;
                Ok(device)
            })
            .map_err(|error| error.context(format!("failed to save metadata for device {name:?}")))
    }

    /// The device `name`.
    pub(super) fn device(&self, name: &str) -> Result<Device> {
        let tx = self.0.view()?;
        get(tx.root(), name)?
            .ok_or_else(|| Error::not_found(format!("metadata for device {name:?}")))
    }

    /// All devices. A damaged record is logged and left out.
    pub(super) fn devices(&self) -> Result<Vec<Device>> {
        let tx = self.0.view()?;
        let mut list = Vec::new();
        let Some(devices) = tx.root().bucket(DEVICES)? else { return Ok(list) };
        for entry in devices.iter() {
            let (key, value) = entry?;
            let Some(value) = value.value() else { continue };
            match serde_json::from_slice(value) {
                Ok(device) => list.push(device),
                Err(error) => {
                    let key = String::from_utf8_lossy(key);
                    tracing::warn!(device = %key, %error, "damaged device record");
                }
            }
        }
        Ok(list)
    }

    /// Changes a device.
    pub(super) fn change(
        &self,
        name: &str,
        change: impl FnOnce(&mut Device) + Send + 'static,
    ) -> Result<()> {
        let name = name.to_owned();
        self.0.update(move |tx| -> Result<()> {
            let mut device = get(tx.read(), &name)?
                .ok_or_else(|| Error::not_found(format!("metadata for device {name:?}")))?;
            change(&mut device);
            put(tx, &device)
        })
    }

    /// Says that a device, and its number, are not to be used.
    pub(super) fn mark_faulty(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.0.update(move |tx| -> Result<()> {
            let mut device = get(tx.read(), &name)?
                .ok_or_else(|| Error::not_found(format!("metadata for device {name:?}")))?;
            device.set_state(State::Faulty);
            put(tx, &device)?;
            mark(tx, device.device_id, BROKEN)
        })
    }

    /// Removes a device, and frees its number.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.0.update(move |tx| -> Result<()> {
            let device = get(tx.read(), &name)?
                .ok_or_else(|| Error::not_found(format!("metadata for device {name:?}")))?;
            tx.create_bucket_if_missing(&[DEVICES])?.delete(name.as_bytes())?;
            mark(tx, device.device_id, FREE)
        })
    }
}

fn get(root: Bucket<'_>, name: &str) -> Result<Option<Device>> {
    let Some(devices) = root.bucket(DEVICES)? else { return Ok(None) };
    let Some(value) = devices.get(name.as_bytes())? else { return Ok(None) };
    let device = serde_json::from_slice(value)
        .map_err(|error| Error::data_loss(format!("record of device {name:?}: {error}")))?;
    Ok(Some(device))
}

fn put(tx: &mut WriteTx<'_>, device: &Device) -> Result<()> {
    let value = serde_json::to_vec(device).map_err(|error| Error::internal(error.to_string()))?;
    tx.create_bucket_if_missing(&[DEVICES])?.put(device.name.as_bytes(), &value)?;
    Ok(())
}

fn mark(tx: &mut WriteTx<'_>, id: u32, state: u8) -> Result<()> {
    tx.create_bucket_if_missing(&[DEVICE_IDS])?.put(id.to_string().as_bytes(), &[state])?;
    Ok(())
}

/// The first free number in the order of the keys, or a new one.
fn next_id(tx: &mut WriteTx<'_>) -> Result<u32> {
    let mut free = None;
    if let Some(ids) = tx.read().bucket(DEVICE_IDS)? {
        for entry in ids.iter() {
            let (key, value) = entry?;
            if value.value() == Some(&[FREE])
                && let Some(id) = std::str::from_utf8(key).ok().and_then(|key| key.parse().ok())
            {
                free = Some(id);
                break;
            }
        }
    }
    let id = match free {
        Some(id) => id,
        None => {
            let next = tx.create_bucket_if_missing(&[DEVICE_IDS])?.next_sequence()?;
            if next >= MAX_DEVICE_ID {
                return Err(Error::resource_exhausted("dm-meta: couldn't find free device key"));
            }
            u32::try_from(next).map_err(|error| Error::internal(error.to_string()))?
        }
    };
    mark(tx, id, TAKEN)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> (tempfile::TempDir, Records) {
        let folder = tempfile::tempdir_in("/dev/shm").expect("folder");
        let records = Records::open(&folder.path().join("pool.db")).expect("open");
        (folder, records)
    }

    #[test]
    fn a_device_is_written_as_containerd_does() {
        let mut device = Device::new("pool-snap-2", "pool-snap-1", 1 << 30);
        device.device_id = 7;
        device.set_state(State::Activated);
        let text = serde_json::to_string(&device).expect("JSON");
        assert_eq!(
            text,
            r#"{"device_id":7,"size":1073741824,"name":"pool-snap-2","parent_name":"pool-snap-1","state":4,"error":""}"#
        );
        let read: Device = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read.state(), State::Activated);
        let odd: Device = serde_json::from_str(r#"{"state":99,"more":1}"#).expect("JSON");
        assert_eq!(odd.state(), State::Unknown);
    }

    #[test]
    fn numbers_are_given_again() {
        let (_folder, records) = records();
        let add = |name: &str| records.add(Device::new(name, "", 1)).map(|device| device.device_id);
        assert_eq!((add("a").expect("a"), add("b").expect("b"), add("c").expect("c")), (1, 2, 3));
        assert!(add("b").expect_err("taken").is_already_exists());
        records.remove("b").expect("remove");
        assert!(records.device("b").expect_err("gone").is_not_found());
        assert_eq!(add("d").expect("d"), 2, "the free one first");
        records.mark_faulty("a").expect("faulty");
        assert_eq!(add("a").expect("made again"), 4, "its number stays faulty");
        assert_eq!(records.devices().expect("list").len(), 3);
        records.change("a", |device| device.set_state(State::Removed)).expect("change");
        assert!(records.device("a").expect("a").is_garbage());
    }
}
