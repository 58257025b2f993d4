// SPDX-License-Identifier: GPL-2.0

//! The device in this process.
//!
//! A [`Sim`] consists of the module's own control and engine, with vectors as guest and device
//! memory. Nothing runs by itself: [`Sim::step`] does one unit. Guest memory is mapped in ranges;
//! accesses outside them fault, as they do behind an IOMMU. Registered memory that is unmapped cannot be used any more.

use mdma_model::control::{Control, Effect, Plan};
use mdma_model::desc::{Error, Place, COMPLETION_SIZE, DESCRIPTOR_SIZE};
use mdma_model::engine::{self, Bus};
use mdma_model::key::{Keys, Progress, Registration, SavedKey, MAX_KEYS, SAVED_KEY_SIZE};
use mdma_model::queue::Ring;
use mdma_model::refused::RegisterError;
use mdma_model::state::{self, InvalidField};

use crate::oracle::World;
use crate::sparse::Sparse;
use crate::transport::{Bar, Buffer};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

/// Memory that simulated devices share, with its mappings.
#[derive(Clone, Debug, Default)]
pub struct Guest(Arc<Mutex<(World, Vec<Range<u64>>)>>);

/// A mapped range of guest memory.
#[derive(Clone, Debug)]
pub struct GuestBuffer {
    guest: Guest,
    iova: u64,
    size: usize,
}

impl Guest {
    /// Creates guest memory without mappings.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, (World, Vec<Range<u64>>)> {
        self.0.lock().unwrap()
    }

    /// Maps memory.
    pub fn map(&self, iova: u64, size: usize) -> GuestBuffer {
        self.lock().1.push(iova..iova + size as u64);
        GuestBuffer {
            guest: self.clone(),
            iova,
            size,
        }
    }

    /// Removes the mapping at `iova`.
    pub fn unmap(&self, iova: u64) {
        self.lock().1.retain(|range| range.start != iova);
    }

    /// Returns a copy of the contents.
    pub fn contents(&self) -> Sparse {
        self.lock().0.guest.clone()
    }

    /// Replaces the contents.
    pub fn set_contents(&self, contents: Sparse) {
        self.lock().0.guest = contents;
    }

    fn mapped(&self, iova: u64, len: usize) -> bool {
        let Some(end) = iova.checked_add(len as u64) else {
            return false;
        };
        self.lock()
            .1
            .iter()
            .any(|range| range.start <= iova && end <= range.end)
    }
}

impl Buffer for GuestBuffer {
    fn iova(&self) -> u64 {
        self.iova
    }

    fn size(&self) -> usize {
        self.size
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        assert!(offset + out.len() <= self.size);
        self.guest
            .lock()
            .0
            .guest
            .read(self.iova + offset as u64, out);
    }

    fn write(&self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= self.size);
        let iova = self.iova + offset as u64;
        self.guest.lock().0.guest.write(iova, data);
    }

    fn load_acquire(&self, offset: usize) -> u64 {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes);
        u64::from_ne_bytes(bytes)
    }
}

/// The result of a step of a [`Sim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There was nothing to do.
    Idle,
    /// The device did a unit.
    Unit,
}

/// A simulated device.
#[derive(Debug)]
pub struct Sim {
    guest: Guest,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    control: Control,
    memory: World,
    /// Registered memory by key, the next key, and the registration in progress.
    keys: BTreeMap<u32, Registration>,
    next_key: u32,
    pending: u64,
    /// Events signalled, by cause.
    events: [u64; 2],
    kicked: bool,
}

impl Sim {
    /// Creates a device in its power-on state.
    pub fn new(guest: Guest, memory_size: u64, throttle: u32) -> Self {
        Sim {
            guest,
            inner: Mutex::new(Inner {
                control: Control::new(memory_size, throttle),
                memory: World::new(memory_size),
                keys: BTreeMap::new(),
                next_key: 1,
                pending: 0,
                events: [0; 2],
                kicked: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Does one unit.
    pub fn step(&self) -> Step {
        let mut inner = self.lock();
        let Plan::Unit(ticket) = inner.control.begin() else {
            inner.kicked = false;
            return Step::Idle;
        };
        let inner = &mut *inner;
        let mut bus = SimBus {
            guest: &self.guest,
            device: &mut inner.memory,
            keys: &mut inner.keys,
            next_key: &mut inner.next_key,
            pending: &mut inner.pending,
        };
        let outcome = engine::run(&ticket, &mut bus);
        let effect = inner.control.finish(&ticket, &outcome, &mut bus);
        inner.apply(effect);
        Step::Unit
    }

    /// Does units until there is nothing to do; returns their number.
    pub fn run(&self) -> u64 {
        let mut units = 0;
        while self.step() == Step::Unit {
            units += 1;
        }
        units
    }

    /// Returns whether a register write has asked for work since the last step.
    pub fn kicked(&self) -> bool {
        self.lock().kicked
    }

    /// Returns the number of events since the last call: completions, halts.
    pub fn take_events(&self) -> [u64; 2] {
        std::mem::take(&mut self.lock().events)
    }

    /// Returns the level of INTx.
    pub fn level(&self) -> bool {
        self.lock().control.asserted() != 0
    }

    /// Reads a register with an access of any length; the error is the reason of a refusal.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), RegisterError> {
        self.lock().control.read(offset, data)
    }

    /// Writes a register with an access of any length; the error is the reason of a refusal.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), RegisterError> {
        let mut inner = self.lock();
        let effect = inner.control.write(offset, data)?;
        inner.apply(effect);
        Ok(())
    }

    /// Resets the device to its power-on state.
    pub fn reset(&self) {
        let mut inner = self.lock();
        inner.control.reset();
        inner.memory.device = Sparse::new();
        inner.keys.clear();
        inner.next_key = 1;
        inner.pending = 0;
    }

    /// Saves the registers, the job in flight and the keys.
    pub fn save(&self) -> Vec<u8> {
        let inner = self.lock();
        let keys = Keys {
            next: inner.next_key,
            count: inner.keys.len() as u32,
        };
        let mut bytes = state::encode(inner.control.state(), keys).to_vec();
        for (&key, memory) in &inner.keys {
            let unmapped = !self.guest.mapped(memory.iova, memory.len as usize);
            bytes.extend(SavedKey::new(key, *memory, unmapped).encode());
        }
        bytes
    }

    /// Loads the saved state of another device.
    pub fn load(&self, bytes: &[u8]) -> Result<(), InvalidField> {
        let length = || InvalidField {
            field: "length",
            value: bytes.len() as u64,
        };
        let mut inner = self.lock();
        let (base, rest) = bytes.split_at(bytes.len().min(state::SIZE));
        let base = base.try_into().map_err(|_| length())?;
        let (state, saved) = state::decode(base, inner.control.memory_size())?;
        let mut keys = BTreeMap::new();
        let mut before = 0;
        for bytes in rest.chunks(SAVED_KEY_SIZE) {
            let key = SavedKey::decode(bytes.try_into().map_err(|_| length())?, before)?;
            before = key.key;
            keys.insert(key.key, key);
        }
        if keys.len() != saved.count as usize {
            return Err(length());
        }
        state::check_job_keys(&state, |key| keys.get(&key).copied())?;
        inner.control.load(state);
        inner.keys = keys
            .iter()
            .map(|(&key, saved)| (key, saved.memory()))
            .collect();
        inner.next_key = saved.next;
        inner.pending = 0;
        Ok(())
    }

    /// Returns a copy of the device memory.
    pub fn memory(&self) -> Sparse {
        self.lock().memory.device.clone()
    }

    /// Replaces the device memory.
    pub fn set_memory(&self, contents: Sparse) {
        self.lock().memory.device = contents;
    }
}

impl Inner {
    fn apply(&mut self, effect: Effect) {
        self.kicked |= effect.schedule;
        for (cause, count) in self.events.iter_mut().enumerate() {
            *count += u64::from((effect.events >> cause) & 1);
        }
    }
}

/// As on a bus, no access fails: a refused read returns all ones, a refused write is dropped.
impl Bar for Sim {
    fn read32(&self, offset: u64) -> io::Result<u32> {
        let mut bytes = [0xff; 4];
        let _ = self.read(offset, &mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn write32(&self, offset: u64, value: u32) -> io::Result<()> {
        let _ = self.write(offset, &value.to_le_bytes());
        Ok(())
    }

    fn read64(&self, offset: u64) -> io::Result<u64> {
        let mut bytes = [0xff; 8];
        let _ = self.read(offset, &mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn write64(&self, offset: u64, value: u64) -> io::Result<()> {
        let _ = self.write(offset, &value.to_le_bytes());
        Ok(())
    }
}

/// How many bytes a unit registers.
const STEP: u64 = 16 << 20;

/// The engine's access to mapped guest memory and device memory.
struct SimBus<'a> {
    guest: &'a Guest,
    device: &'a mut World,
    keys: &'a mut BTreeMap<u32, Registration>,
    next_key: &'a mut u32,
    pending: &'a mut u64,
}

impl SimBus<'_> {
    /// Returns a place with the IOVA of registered memory.
    fn resolve(&self, place: Place, len: usize, write: bool) -> Result<Place, Error> {
        let Place::Key { key, offset } = place else {
            return Ok(place);
        };
        let memory = self.keys.get(&key).ok_or(Error::BadKey)?;
        memory.check_access(offset, len as u64, write)?;
        if !self.guest.mapped(memory.iova, memory.len as usize) {
            return Err(Error::KeyUnmapped);
        }
        Ok(Place::Guest(memory.iova + offset))
    }

    fn read(&self, place: Place, len: usize, fault: Error) -> Result<Vec<u8>, Error> {
        match self.resolve(place, len, false)? {
            Place::Guest(iova) if !self.guest.mapped(iova, len) => Err(fault),
            place @ Place::Guest(_) => Ok(self.guest.lock().0.read(place, len)),
            place => Ok(self.device.read(place, len)),
        }
    }

    fn write(&mut self, place: Place, data: &[u8], fault: Error) -> Result<(), Error> {
        match self.resolve(place, data.len(), true)? {
            Place::Guest(iova) if !self.guest.mapped(iova, data.len()) => return Err(fault),
            place @ Place::Guest(_) => self.guest.lock().0.write(place, data),
            place => self.device.write(place, data),
        }
        Ok(())
    }
}

impl Bus for SimBus<'_> {
    fn prepare(&mut self, ring: &Ring) -> Result<(), Error> {
        if !self.guest.mapped(ring.base(), ring.descriptors_len()) {
            return Err(Error::RingFault);
        }
        if !self
            .guest
            .mapped(ring.completions(), ring.completions_len())
        {
            return Err(Error::CompletionFault);
        }
        Ok(())
    }

    fn fetch(&mut self, ring: &Ring, index: u32) -> Result<[u8; DESCRIPTOR_SIZE], Error> {
        let at = Place::Guest(ring.base() + ring.descriptor_at(index) as u64);
        let bytes = self.read(at, DESCRIPTOR_SIZE, Error::RingFault)?;
        Ok(bytes.try_into().unwrap())
    }

    fn complete(
        &mut self,
        ring: &Ring,
        index: u32,
        record: &[u8; COMPLETION_SIZE],
    ) -> Result<(), Error> {
        let at = Place::Guest(ring.completions() + ring.completion_at(index) as u64);
        self.write(at, record, Error::CompletionFault)
    }

    fn check_key(&mut self, key: u32, offset: u64, len: u64, write: bool) -> Result<(), Error> {
        let place = Place::Key { key, offset };
        self.resolve(place, len as usize, write).map(|_| ())
    }

    fn register(&mut self, memory: &Registration) -> Result<Progress, Error> {
        let limit = if self.keys.len() < MAX_KEYS {
            Ok(())
        } else {
            Err(Error::RegisterLimit)
        };
        let mapped = self.guest.mapped(memory.iova, memory.len as usize);
        let mapped = mapped.then_some(()).ok_or(Error::RegisterFault);
        if let Err(error) = limit.and(mapped) {
            *self.pending = 0;
            return Err(error);
        }
        *self.pending += STEP;
        if *self.pending < memory.len {
            return Ok(Progress::More(*self.pending));
        }
        *self.pending = 0;
        let key = *self.next_key;
        *self.next_key += 1;
        self.keys.insert(key, *memory);
        Ok(Progress::Done(key))
    }

    fn deregister(&mut self, key: u64) -> Result<bool, Error> {
        let key = u32::try_from(key).map_err(|_| Error::BadKey)?;
        self.keys.remove(&key).ok_or(Error::BadKey)?;
        Ok(true)
    }

    fn entries(&mut self, iova: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let found = self.read(Place::Guest(iova), bytes.len(), Error::ListFault)?;
        bytes.copy_from_slice(&found);
        Ok(())
    }

    fn copy(&mut self, src: Place, dst: Place, len: usize) -> Result<(), Error> {
        let data = self.read(src, len, Error::SrcFault)?;
        self.write(dst, &data, Error::DstFault)
    }

    fn fill(&mut self, dst: Place, value: u64, len: usize) -> Result<(), Error> {
        let data: Vec<u8> = value.to_le_bytes().into_iter().cycle().take(len).collect();
        self.write(dst, &data, Error::DstFault)
    }

    fn crc32c(&mut self, src: Place, crc: u32, len: usize) -> Result<u32, Error> {
        let data = self.read(src, len, Error::SrcFault)?;
        Ok(!crc32c::crc32c_append(!crc, &data))
    }
}
