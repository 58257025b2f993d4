// SPDX-License-Identifier: GPL-2.0

//! Registered memory of the guest.
//!
//! A registration of many pages is spread over units of work, [`STEP`] ranges in each, so that a stop does
//! not wait for all of it. The device keeps the memory pinned while it is stopped. After a load, and after
//! a close that keeps the state, it pins the memory again before it runs a job.

use kernel::{
    prelude::*,
    time::{
        delay::fsleep,
        Delta, //
    },
};
use mdma_model::{
    desc::Error,
    key::{
        Keys,
        Progress,
        Registration,
        SavedKey,
        MAX_KEYS, //
    },
};
use migratable::{
    dma::{
        self,
        Access,
        Dma,
        KeyError,
        MemoryKeys,
        RegisteredMemory, //
    },
    Device, //
};

/// How many ranges of up to 2 MiB a unit pins or unpins.
const STEP: usize = 8;

/// How long the device tries again while memory is being unmapped, and how often.
const PAUSE: Delta = Delta::from_millis(1);
const TRIES: u32 = 5_000;

const _: () = assert!(MAX_KEYS == dma::MAX_KEYS);

/// A registration in progress.
struct Pending {
    wanted: Registration,
    memory: RegisteredMemory,
}

/// The registered memory of one device.
#[derive(Default)]
pub(crate) struct Memory {
    keys: MemoryKeys,
    pending: Option<Pending>,
    /// How often pinning was tried in vain because memory was being unmapped.
    tries: u32,
}

/// Returns the error for a job.
fn key_error(error: KeyError) -> Error {
    match error {
        KeyError::Unknown => Error::BadKey,
        KeyError::Range => Error::KeyRange,
        KeyError::Access => Error::KeyAccess,
        KeyError::Unmapped => Error::KeyUnmapped,
    }
}

/// Returns the error for a registration.
fn register_error(error: kernel::error::Error) -> Error {
    match error {
        error if error == EBUSY || error == ENOSPC => Error::RegisterLimit,
        error if error == ENOMEM => Error::RegisterNoMemory,
        error if error == EAGAIN => Error::RegisterBusy,
        _ => Error::RegisterFault,
    }
}

/// Returns memory to register.
fn registered(wanted: &Registration, unmapped: bool) -> Result<RegisteredMemory> {
    let access = if wanted.write {
        Access::ReadWrite
    } else {
        Access::Read
    };
    RegisteredMemory::new(wanted.iova, wanted.len, access, unmapped)
}

impl Memory {
    /// Forgets a registration in progress: the job starts it over.
    pub(crate) fn stop(&mut self) {
        self.pending = None;
    }

    /// Unpins a part of a registration in progress, which nobody wants any more. Returns whether there is
    /// more to unpin.
    pub(crate) fn release(&mut self) -> bool {
        let more = match &mut self.pending {
            Some(pending) => pending.memory.unpin(STEP),
            None => false,
        };
        if !more {
            self.pending = None;
        }
        more
    }

    /// Deregisters everything.
    pub(crate) fn clear(&mut self) {
        self.pending = None;
        self.keys.clear();
        self.keys.set_next(1);
    }

    /// Returns the memory with a key, for an access.
    #[inline]
    pub(crate) fn find(
        &self,
        key: u32,
        offset: u64,
        len: usize,
        write: bool,
    ) -> Result<&RegisteredMemory, Error> {
        (self.keys.find(key, offset, len as u64, write)).map_err(key_error)
    }

    /// Checks an access.
    #[inline]
    pub(crate) fn check(&self, key: u32, offset: u64, len: u64, write: bool) -> Result<(), Error> {
        let found = self.keys.find(key, offset, len, write);
        found.map(|_| ()).map_err(key_error)
    }

    /// Copies from registered memory.
    pub(crate) fn read(&self, key: u32, offset: u64, data: &mut [u8]) -> Result<(), Error> {
        let memory = self.find(key, offset, data.len(), false)?;
        (memory.read_at(offset, data)).map_err(|_| Error::KeyUnmapped)
    }

    /// Copies to registered memory.
    pub(crate) fn write(&self, key: u32, offset: u64, data: &[u8]) -> Result<(), Error> {
        let memory = self.find(key, offset, data.len(), true)?;
        (memory.write_at(offset, data)).map_err(|_| Error::KeyUnmapped)
    }

    /// Fills registered memory.
    pub(crate) fn fill(&self, key: u32, offset: u64, value: u64, len: usize) -> Result<(), Error> {
        let memory = self.find(key, offset, len, true)?;
        (memory.fill_at(offset, len, value)).map_err(|_| Error::KeyUnmapped)
    }

    /// Returns `crc` continued over registered memory.
    pub(crate) fn crc32c(&self, key: u32, offset: u64, crc: u32, len: usize) -> Result<u32, Error> {
        let memory = self.find(key, offset, len, false)?;
        (memory.crc32c_at(offset, len, crc)).map_err(|_| Error::KeyUnmapped)
    }

    /// Continues a registration. After an error nothing of it is pinned, and the log says why.
    pub(crate) fn register<T>(
        &mut self,
        dev: &Device<T>,
        wanted: &Registration,
    ) -> Result<Progress, Error> {
        self.pin_part(dev.dma(), wanted).map_err(|error| {
            self.tries = 0;
            // The queue halts, and the next units unpin the rest.
            self.release();
            migratable::refuse!(
                dev,
                "register: {:#x} bytes at {:#x} cannot be pinned: {error:?}",
                wanted.len,
                wanted.iova
            );
            register_error(error)
        })
    }

    /// Pins the next ranges of a registration, and gives it a key when all are pinned.
    fn pin_part(&mut self, dma: &Dma, wanted: &Registration) -> Result<Progress> {
        let stale = |pending: &Pending| pending.wanted != *wanted || pending.memory.is_unmapped();
        if self.pending.as_ref().is_some_and(stale) && self.release() {
            return Ok(Progress::More(0));
        }
        if self.pending.is_none() {
            if self.keys.len() >= MAX_KEYS {
                return Err(ENOSPC);
            }
            self.pending = Some(Pending {
                wanted: *wanted,
                memory: registered(wanted, false)?,
            });
        }
        let pending = self.pending.as_mut().ok_or(EINVAL)?;
        for _ in 0..STEP {
            let done = pending.memory.pin_next(dma);
            if done == Err(EAGAIN) && self.tries < TRIES {
                self.tries += 1;
                fsleep(PAUSE);
                break;
            }
            self.tries = 0;
            if done == Err(EINTR) {
                // The task is killed: another one continues.
                break;
            }
            if done? {
                let pending = self.pending.take().ok_or(EINVAL)?;
                return Ok(Progress::Done(self.keys.insert(dma, pending.memory)?));
            }
        }
        Ok(Progress::More(pending.memory.pinned()))
    }

    /// Continues to deregister memory. Returns whether the key is gone.
    pub(crate) fn deregister(&mut self, key: u64) -> Result<bool, Error> {
        let key = u32::try_from(key).map_err(|_| Error::BadKey)?;
        let memory = self.keys.get_mut(key).ok_or(Error::BadKey)?;
        // If the device is saved now, the other device need not pin it.
        memory.set_unmapped();
        let more = memory.unpin(STEP);
        if !more {
            self.keys.remove(key);
        }
        Ok(!more)
    }

    /// Pins a part of what was restored, or unpinned by a close. Returns whether there may be more to pin.
    ///
    /// Memory that cannot be pinned any more cannot be used any more.
    #[inline]
    pub(crate) fn pin_again<T>(&mut self, dev: &Device<T>) -> bool {
        let dma = dev.dma();
        if !self.keys.must_pin(dma) {
            return false;
        }
        match self.keys.pin_next(dma) {
            Ok(more) => {
                self.tries = 0;
                return more;
            }
            Err((_, error)) if error == EAGAIN && self.tries < TRIES => {
                self.tries += 1;
                fsleep(PAUSE);
            }
            // The task is killed: another one continues.
            Err((_, error)) if error == EINTR => {}
            Err((key, error)) => {
                self.tries = 0;
                migratable::refuse!(dev, "key {key} cannot be pinned again: {error:?}");
                if let Some(memory) = self.keys.get_mut(key) {
                    memory.set_unmapped();
                    memory.unpin(usize::MAX);
                }
            }
        }
        true
    }

    /// Pins what was restored. After an error nothing is pinned, and the log says why.
    pub(crate) fn pin_all<T>(&mut self, dev: &Device<T>) -> Result {
        let dma = dev.dma();
        let mut tries = 0;
        while self.keys.must_pin(dma) {
            match self.keys.pin_next(dma) {
                Ok(_) => {}
                Err((_, error)) if error == EAGAIN && tries < TRIES => {
                    tries += 1;
                    fsleep(PAUSE);
                }
                Err((key, error)) => {
                    self.keys.unpin_all();
                    migratable::refuse!(
                        dev,
                        "the device cannot run: key {key} cannot be pinned: {error:?}"
                    );
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Returns what the saved state has before its keys.
    pub(crate) fn saved(&self) -> Keys {
        Keys {
            next: self.keys.next(),
            count: self.keys.len() as u32,
        }
    }

    /// Returns the keys of the saved state.
    pub(crate) fn saved_keys(&self) -> impl Iterator<Item = SavedKey> + use<'_> {
        self.keys.iter().map(|(key, memory)| {
            let saved = Registration {
                iova: memory.iova(),
                len: memory.len(),
                write: memory.access() == Access::ReadWrite,
            };
            SavedKey::new(key, saved, memory.is_unmapped())
        })
    }

    /// Returns the memory of a saved state, whose keys `keys` returns one by one. Nothing is pinned yet.
    pub(crate) fn restored(
        saved: Keys,
        mut keys: impl FnMut() -> Result<SavedKey>,
    ) -> Result<Memory> {
        let mut memory = Memory::default();
        for _ in 0..saved.count {
            let key = keys()?;
            let registered = registered(&key.memory(), key.is_unmapped())?;
            memory.keys.restore(key.key, registered)?;
        }
        memory.keys.set_next(saved.next);
        Ok(memory)
    }

    /// Returns a key as it is saved.
    pub(crate) fn saved_key(&self, key: u32) -> Option<SavedKey> {
        // A scan, because only the job in flight is looked up.
        self.saved_keys().find(|saved| saved.key == key)
    }
}
