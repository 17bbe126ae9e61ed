//! A thin pool: its devices, and what is written of each before and after every step.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use base_errors::{Class, Error, Result};
use base_fs::failpoint;

use super::dmsetup;
use super::records::{Device, Records, State};
use crate::error::failed;

/// Tries to take away a device that is busy, and the pause between them: ten seconds, as
/// containerd.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// An open pool. Cloning gives another handle of the same.
#[derive(Clone)]
pub(super) struct Pool {
    name: String,
    records: Records,
    discard: bool,
    /// Devices that snapshots are being made of: one at a time each.
    origins: Arc<Origins>,
}

/// What a device is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A snapshot that is mounted.
    Device,
    /// A committed snapshot: its children need its data.
    Data,
    /// A snapshot that is not there.
    None,
    /// Somebody else's.
    Unknown,
}

#[derive(Default)]
struct Origins {
    busy: Mutex<BTreeSet<String>>,
    free: Condvar,
}

/// The right to suspend a device.
struct Origin<'a>(&'a Origins, String);

impl Origins {
    /// Waits for the other snapshots of `name`; each takes a few calls of `dmsetup`, which have
    /// their own deadline.
    fn enter(&self, name: &str) -> Origin<'_> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while !busy.insert(name.to_owned()) {
            busy = self.free.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        Origin(self, name.to_owned())
    }
}

impl Drop for Origin<'_> {
    fn drop(&mut self) {
        self.0.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
        self.0.free.notify_all();
    }
}

impl Pool {
    /// Opens the pool `name`, which exists.
    pub(super) fn open(root: &Path, name: &str, discard: bool) -> Result<Self> {
        dmsetup::version().map_err(|error| error.context("dmsetup not available"))?;
        let records = Records::open(&root.join(format!("{name}.db")))?;
        if !dmsetup::is_loaded(name) {
            return Err(Error::not_found(format!(
                "failed to query pool {:?}: no such device or address",
                dmsetup::path(name)
            )));
        }
        Ok(Pool { name: name.to_owned(), records, discard, origins: Arc::default() })
    }

    /// Sets right what a crash or a reboot left, by what each device is there for. To be called
    /// before anything else uses the pool.
    pub(super) fn settle(&self, used: impl Fn(&str) -> Use) -> Result<()> {
        for device in self.records.devices()? {
            // One broken device costs itself alone.
            if let Err(error) = self.settle_one(&device, used(&device.name)) {
                tracing::warn!(device = device.name, %error, "device cannot be set right");
            }
        }
        Ok(())
    }

    fn settle_one(&self, device: &Device, used: Use) -> Result<()> {
        let name = device.name.as_str();
        match (used, device.state()) {
            (_, State::Removed | State::Faulty) => Ok(()),
            // Made or left by a call that did not come to its end.
            (Use::None, state) => {
                tracing::warn!(device = name, ?state, "device has no snapshot, removing it");
                self.mark_removed(name)
            }
            (_, state @ (State::Unknown | State::Creating | State::Removing)) => {
                tracing::warn!(
                    device = name,
                    ?state,
                    error = device.error,
                    "device is in the middle of something, marking it as faulty"
                );
                self.records.mark_faulty(name)
            }
            // Whoever uses it would wait for ever.
            (_, State::Suspending | State::Suspended | State::Resuming)
                if dmsetup::is_loaded(name) =>
            {
                tracing::warn!(device = name, "device stands still, resuming it");
                self.resume(name)
            }
            (Use::Data, State::Deactivating) => self.deactivate(name, true),
            (Use::Device, _) if !dmsetup::is_active(name) => {
                tracing::warn!(device = name, "device is not active, activating it");
                self.activate(device)
            }
            _ => Ok(()),
        }
    }

    /// Writes down what is tried, tries it, and writes down what came of it.
    fn transition(
        &self,
        device: &str,
        trying: State,
        done: State,
        act: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.records
            .change(device, move |device| device.set_state(trying))
            .map_err(|error| error.context(format!("failed to set device {device:?} state")))?;
        let result = act();
        // DURABILITY: what was tried, and what came of it: the next start goes by these.
        failpoint::hit("devmapper.noted").map_err(failed(Path::new(device)))?;
        let told = result.as_ref().err().map(ToString::to_string);
        let written = self.records.change(device, move |device| match told {
            None => {
                device.set_state(done);
                device.error = String::new();
            }
            Some(error) => device.error = error,
        });
        result.and(written)
    }

    fn activate(&self, device: &Device) -> Result<()> {
        let (name, id) = (device.name.as_str(), device.device_id);
        self.transition(name, State::Activating, State::Activated, || {
            failpoint::hit("devmapper.activate").map_err(failed(Path::new(name)))?;
            dmsetup::activate(&self.name, name, id, device.size)
        })
        .map_err(|error| {
            error.context(format!("failed to activate new thin device {name:?} (dev: {id})"))
        })
    }

    /// Makes and activates an empty device of `size` bytes.
    pub(super) fn create(&self, name: &str, size: u64) -> Result<()> {
        let device = self.records.add(Device::new(name, "", size))?;
        let id = device.device_id;
        self.finish(&device, || {
            dmsetup::create_thin(&self.name, id).map_err(|error| {
                error.context(format!("failed to create new thin device {name:?} (dev: {id})"))
            })
        })
    }

    /// Makes and activates `name`, a snapshot of the device `origin`.
    pub(super) fn snapshot(&self, origin: &str, name: &str, size: u64) -> Result<()> {
        let base = self
            .records
            .device(origin)
            .map_err(|error| error.context("failed to query device metadata"))?;
        let _origin = self.origins.enter(origin);
        // A device in use must stand still; a committed one is not even there, as a rule.
        let loaded = dmsetup::is_loaded(origin);
        if loaded {
            self.suspend(origin)?;
        }
        let made = self.records.add(Device::new(name, origin, size)).and_then(|device| {
            let id = device.device_id;
            self.finish(&device, || {
                dmsetup::create_snapshot(&self.name, id, base.device_id).map_err(|error| {
                    error.context(format!(
                        "failed to create snapshot {name:?} (dev: {id}) from {origin:?} (dev: {})",
                        base.device_id
                    ))
                })
            })
        });
        if loaded && let Err(error) = self.resume(origin) {
            tracing::warn!(origin, %error, "failed to resume base device after its snapshot");
        }
        made
    }

    /// Makes a device that has a record, activates it, and takes back what fails.
    fn finish(&self, device: &Device, make: impl FnOnce() -> Result<()>) -> Result<()> {
        let name = device.name.as_str();
        let made = self.transition(name, State::Creating, State::Created, || {
            // DURABILITY: the record of the number, before the pool has a device of it.
            failpoint::hit("devmapper.create").map_err(failed(Path::new(name)))?;
            make()
        });
        if let Err(error) = made {
            // Whether the number is in use is not known any more.
            self.mark_faulty(name);
            return Err(error);
        }
        self.activate(device).inspect_err(|_| match dmsetup::delete(&self.name, device.device_id) {
            Ok(()) => {
                if let Err(error) = self.records.remove(name) {
                    tracing::warn!(device = name, %error, "failed to free device id");
                }
            }
            Err(_) => self.mark_faulty(name),
        })
    }

    fn mark_faulty(&self, name: &str) {
        if let Err(error) = self.records.mark_faulty(name) {
            tracing::warn!(device = name, %error, "failed to mark device as faulty");
        }
    }

    /// Writes out what the device has in memory, and stops it.
    pub(super) fn suspend(&self, name: &str) -> Result<()> {
        self.transition(name, State::Suspending, State::Suspended, || dmsetup::suspend(name))
            // It may stand still without a record of it; nobody would end that.
            .inspect_err(|_| drop(dmsetup::resume(name)))
            .map_err(|error| error.context(format!("failed to suspend device {name:?}")))
    }

    /// Ends [`Pool::suspend`].
    pub(super) fn resume(&self, name: &str) -> Result<()> {
        self.transition(name, State::Resuming, State::Resumed, || dmsetup::resume(name))
            .map_err(|error| error.context(format!("failed to resume device {name:?}")))
    }

    /// Takes the device out of `/dev/mapper`; its data stays in the pool. One that is not there is
    /// fine. `deferred`: when nobody has it open any more.
    pub(super) fn deactivate(&self, name: &str, deferred: bool) -> Result<()> {
        if !dmsetup::is_loaded(name) {
            return Ok(());
        }
        self.transition(name, State::Deactivating, State::Deactivated, || {
            failpoint::hit("devmapper.deactivate").map_err(failed(Path::new(name)))?;
            if !deferred && self.discard {
                if dmsetup::open_count(name)? == 0 {
                    dmsetup::discard(name)?;
                } else {
                    tracing::warn!(device = name, "device is in use, skipping blkdiscard");
                }
            }
            let mut tries = 0;
            loop {
                match dmsetup::remove(name, deferred) {
                    Err(error) if error.class() == Class::Unavailable && tries < BUSY_TRIES => {
                        tries += 1;
                        std::thread::sleep(BUSY_PAUSE);
                    }
                    result => return result,
                }
            }
        })
        .map_err(|error| error.context(format!("failed to deactivate device {name:?}")))
    }

    /// Removes the device with its data, and frees its number. One without a record is gone.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let device = match self.records.device(name) {
            Ok(device) => device,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        self.deactivate(name, false)?;
        self.transition(name, State::Removing, State::Removed, || {
            // DURABILITY: the record outlives the device, so that its number is not lost.
            failpoint::hit("devmapper.remove").map_err(failed(Path::new(name)))?;
            match dmsetup::delete(&self.name, device.device_id) {
                // The pool does not have it, or not any more.
                Err(error) if error.class() == Class::NotFound => Ok(()),
                result => result,
            }
        })
        .map_err(|error| error.context(format!("failed to delete device {name:?}")))?;
        self.records.remove(name)
    }

    /// Leaves the device to the cleanup.
    pub(super) fn mark_removed(&self, name: &str) -> Result<()> {
        match self.records.change(name, |device| device.set_state(State::Removed)) {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }

    /// Bytes that the device has in the pool.
    pub(super) fn usage(&self, name: &str) -> Result<u64> {
        dmsetup::usage(name)
            .map_err(|error| error.context(format!("can't get status for device {name:?}")))
    }

    /// The records of all devices.
    pub(super) fn devices(&self) -> Result<Vec<Device>> {
        self.records.devices()
    }
}
