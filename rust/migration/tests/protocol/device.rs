// SPDX-License-Identifier: GPL-2.0

//! A device in ordinary memory, and its streams.

use migration::dirty::{words_for, DirtyMap, Run};
use migration::load::{LoadSession, Sink};
use migration::save::{SaveSession, Source};
use migration::stream::{
    crc_finish, device_type, Changes, Checksum, Error, Header, Identity, Part, PartTable,
    SavedState, CRC_SEED, HEADER_SIZE,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

pub(crate) const PAGE: usize = 64;
pub(crate) const STATE_MAX: usize = 256;
/// The number of pages that are skipped at once if none is written.
pub(crate) const BLOCK: u64 = 512;
pub(crate) const ENOMEM: i32 = 12;

pub(crate) fn identity(pages: u64) -> Identity {
    Identity {
        device_type: device_type("test"),
        device_version: 3,
        features: 0x5,
        memory_size: pages * PAGE as u64,
        page_size: PAGE as u32,
        state_size_max: STATE_MAX as u32,
    }
}

/// Populated pages of memory, and the device state.
pub(crate) struct Device {
    pub(crate) identity: Identity,
    pub(crate) pages: RefCell<BTreeMap<u64, Vec<u8>>>,
    pub(crate) dirty: DirtyMap<Vec<AtomicU64>>,
    pub(crate) state: RefCell<Vec<u8>>,
    /// What the device estimates of the size of its state.
    pub(crate) state_size: Cell<Option<u64>>,
    /// The parts, by number, and what changed of them.
    pub(crate) table: Cell<PartTable>,
    pub(crate) parts: RefCell<BTreeMap<u32, Vec<u8>>>,
    pub(crate) changes: Cell<Changes>,
    /// The oldest version that is loaded, and the one that was checked.
    pub(crate) oldest: Cell<u32>,
    pub(crate) version: Cell<u32>,
    /// The numbers of calls of `check_state` and `commit_state`.
    pub(crate) checked: Cell<u32>,
    pub(crate) committed: Cell<u32>,
    /// The number of memory bytes read or written.
    pub(crate) copied: Cell<u64>,
    /// The number of calls until one fails.
    pub(crate) fail_copy: Cell<Option<u32>>,
    pub(crate) fail_put: Cell<Option<u32>>,
    pub(crate) fail_zero: Cell<Option<u32>>,
    pub(crate) fail_state: Cell<bool>,
    /// The errno of failing calls.
    pub(crate) errno: Cell<i32>,
    /// The number of signal checks until a signal is pending.
    pub(crate) signal: Cell<Option<u32>>,
    /// The number of blocks visited and pages freed by loads.
    pub(crate) visits: Cell<u64>,
    /// The number of bytes that `save_state` reports in addition to those it wrote.
    pub(crate) claim: Cell<usize>,
}

impl Device {
    pub(crate) fn new(pages: u64) -> Device {
        Device::with(identity(pages))
    }

    pub(crate) fn with(identity: Identity) -> Device {
        let words = (0..words_for(identity.pages()))
            .map(|_| AtomicU64::new(0))
            .collect();
        Device {
            identity,
            pages: RefCell::default(),
            dirty: DirtyMap::new(words, identity.pages()).unwrap(),
            state: RefCell::default(),
            state_size: Cell::new(None),
            table: Cell::new(PartTable::EMPTY),
            parts: RefCell::default(),
            changes: Cell::default(),
            oldest: Cell::new(identity.device_version),
            version: Cell::new(0),
            checked: Cell::new(0),
            committed: Cell::new(0),
            copied: Cell::new(0),
            fail_copy: Cell::new(None),
            fail_put: Cell::new(None),
            fail_zero: Cell::new(None),
            fail_state: Cell::new(false),
            errno: Cell::new(ENOMEM),
            signal: Cell::new(None),
            visits: Cell::new(0),
            claim: Cell::new(0),
        }
    }

    fn page_size(&self) -> usize {
        self.identity.page_size as usize
    }

    /// Writes a page, then marks it dirty.
    pub(crate) fn write(&self, page: u64, value: u8) {
        let bytes = (0..self.page_size())
            .map(|i| value.wrapping_add(i as u8))
            .collect();
        self.pages.borrow_mut().insert(page, bytes);
        self.dirty.mark(page);
    }

    /// Turns a page into a hole, like a reset of a part of the memory.
    pub(crate) fn discard(&self, page: u64) {
        self.pages.borrow_mut().remove(&page);
        self.dirty.mark(page);
    }

    fn countdown(&self, cell: &Cell<Option<u32>>) -> Result<(), i32> {
        countdown(cell).map_err(|()| self.errno.get())
    }

    /// Returns whether a signal is pending. Only one signal arrives.
    fn signalled(&self) -> bool {
        let now = countdown(&self.signal).is_err();
        if now {
            self.signal.set(None);
        }
        now
    }

    /// Frees pages like the kernel: visits each block and each populated page.
    fn free(&self, first: u64, count: u64) {
        let blocks = count.div_ceil(BLOCK);
        let mut pages = self.pages.borrow_mut();
        let before = pages.len();
        pages.retain(|page, _| !(first..first + count).contains(page));
        let freed = (before - pages.len()) as u64;
        self.visits.set(self.visits.get() + blocks + freed);
    }

    /// Returns all memory, with holes as zeros.
    pub(crate) fn memory(&self) -> Vec<u8> {
        let mut all = vec![0; self.identity.memory_size as usize];
        for (page, bytes) in self.pages.borrow().iter() {
            let at = *page as usize * self.page_size();
            all[at..at + bytes.len()].copy_from_slice(bytes);
        }
        all
    }

    fn buffer(&self) -> Vec<u8> {
        let parts = self.table.get().buffer_size();
        vec![0x55; self.identity.state_size_max as usize + parts]
    }

    pub(crate) fn begin(&self) -> SaveSession<Vec<u8>> {
        self.dirty.clear_all();
        let session = SaveSession::begin(self.identity, self.buffer(), self).unwrap();
        session.with_parts(self.table.get()).unwrap()
    }

    pub(crate) fn loader(&self) -> LoadSession<Vec<u8>> {
        let session = LoadSession::new(self.identity, self.buffer()).unwrap();
        let session = session.since(self.oldest.get());
        session.with_parts(self.table.get()).unwrap()
    }

    /// Saves the stopped device and returns the buffers.
    pub(crate) fn save(&self, len: usize) -> Vec<Vec<u8>> {
        let mut session = self.begin();
        session.stop();
        fill_all(&mut session, self, len)
    }

    /// Loads a stream in one piece.
    pub(crate) fn load(&self, stream: &[u8]) -> Result<(), Error> {
        let mut session = self.loader();
        session.feed(self, stream, stream.len())?;
        session.finish(self)
    }

    pub(crate) fn assert_same(&self, other: &Device) {
        assert!(self.memory() == other.memory(), "memory differs");
        assert_eq!(*self.state.borrow(), *other.state.borrow());
        assert_eq!(*self.parts.borrow(), *other.parts.borrow());
    }
}

/// Returns a device whose stream has each kind of record that a stopped device sends.
pub(crate) fn sample() -> Device {
    let device = Device::new(40);
    for page in [0, 1, 2, 7, 39] {
        device.write(page, page as u8 + 1);
    }
    *device.state.borrow_mut() = (0..100).collect();
    device
}

/// Fills buffers of `len` bytes until no data is left.
pub(crate) fn fill_all(
    session: &mut SaveSession<Vec<u8>>,
    device: &Device,
    len: usize,
) -> Vec<Vec<u8>> {
    let mut buffers = Vec::new();
    loop {
        let mut out = vec![0xee; len];
        let used = session.fill(device, &mut out, len).unwrap();
        if used == 0 {
            return buffers;
        }
        assert!(out[used..].iter().all(|&byte| byte == 0xee));
        out.truncate(used);
        buffers.push(out);
    }
}

/// Splits a stream into records.
pub(crate) fn records(stream: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let mut rest = stream;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let header =
            Header::decode::<Device>(rest.first_chunk().unwrap(), records.len() as u64).unwrap();
        let end = HEADER_SIZE + header.length as usize;
        records.push((header, rest[HEADER_SIZE..end].to_vec()));
        rest = &rest[end..];
    }
    records
}

/// Joins records to a stream, and corrects their lengths and checksums.
pub(crate) fn join(records: &[(Header, Vec<u8>)]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (header, payload) in records {
        let header = Header {
            length: payload.len() as u32,
            payload_crc: crc(payload),
            ..*header
        };
        stream.extend(header.encode::<Device>());
        stream.extend(payload);
    }
    stream
}

pub(crate) fn crc(bytes: &[u8]) -> u32 {
    crc_finish(Device::crc32c(CRC_SEED, bytes))
}

fn countdown(cell: &Cell<Option<u32>>) -> Result<(), ()> {
    match cell.get() {
        Some(0) => Err(()),
        Some(n) => {
            cell.set(Some(n - 1));
            Ok(())
        }
        None => Ok(()),
    }
}

impl Checksum for Device {
    fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
        !crc32c::crc32c_append(!crc, bytes)
    }
}

impl Source for Device {
    type Out = Vec<u8>;
    type Words = Vec<AtomicU64>;

    fn dirty(&self) -> &DirtyMap<Vec<AtomicU64>> {
        &self.dirty
    }

    fn populated(&self, run: Run) -> Option<Run> {
        let pages = self.pages.borrow();
        let first = *pages.range(run.first..run.end()).next()?.0;
        let count = (first..run.end())
            .take_while(|page| pages.contains_key(page))
            .count() as u64;
        Some(Run { first, count })
    }

    fn populated_pages(&self) -> u64 {
        self.pages.borrow().len() as u64
    }

    fn interrupted(&self) -> bool {
        self.signalled()
    }

    fn put(&self, out: &mut Vec<u8>, at: usize, bytes: &[u8]) -> Result<(), i32> {
        self.countdown(&self.fail_put)?;
        out[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn copy_memory(
        &self,
        out: &mut Vec<u8>,
        at: usize,
        position: u64,
        len: usize,
        crc: Option<u32>,
    ) -> Result<Option<u32>, i32> {
        self.countdown(&self.fail_copy)?;
        assert_eq!(position as usize % self.page_size(), 0);
        assert_eq!(len % self.page_size(), 0);
        let first = position / self.page_size() as u64;
        let to = &mut out[at..at + len];
        for (page, to) in (first..).zip(to.chunks_mut(self.page_size())) {
            assert!(!self.dirty.test(page), "page {page} is read before cleared");
            to.copy_from_slice(&self.pages.borrow()[&page]);
        }
        self.copied.set(self.copied.get() + len as u64);
        Ok(crc.map(|crc| Device::crc32c(crc, to)))
    }

    fn state_size(&self, max: u32) -> u64 {
        self.state_size.get().unwrap_or(max.into())
    }

    fn save_state(&self, buf: &mut [u8]) -> Result<usize, i32> {
        if self.fail_state.get() {
            return Err(-ENOMEM);
        }
        let state = self.state.borrow();
        buf[..state.len()].copy_from_slice(&state);
        Ok(state.len() + self.claim.get())
    }

    fn changes(&self) -> Changes {
        self.changes.get()
    }

    fn take_changes(&self) -> Changes {
        self.changes.take()
    }

    fn save_part(&self, part: &Part, buf: &mut [u8]) -> Result<usize, i32> {
        if self.fail_state.get() {
            return Err(-ENOMEM);
        }
        assert_eq!(buf.len(), part.size_max as usize);
        let parts = self.parts.borrow();
        let Some(bytes) = parts.get(&part.number) else {
            return Ok(0);
        };
        buf[..bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len() + self.claim.get())
    }
}

impl Sink for Device {
    type In = [u8];

    fn get(&self, input: &[u8], at: usize, buf: &mut [u8]) -> Result<(), i32> {
        self.countdown(&self.fail_put)?;
        buf.copy_from_slice(&input[at..at + buf.len()]);
        Ok(())
    }

    fn copy_memory(
        &self,
        input: &[u8],
        at: usize,
        position: u64,
        len: usize,
        crc: Option<u32>,
    ) -> Result<Option<u32>, i32> {
        self.countdown(&self.fail_copy)?;
        assert!(len > 0);
        assert!(position + len as u64 <= self.identity.memory_size);
        let from = &input[at..at + len];
        let mut pages = self.pages.borrow_mut();
        for (position, byte) in (position as usize..).zip(from) {
            let page = pages
                .entry((position / self.page_size()) as u64)
                .or_insert_with(|| vec![0; self.page_size()]);
            page[position % self.page_size()] = *byte;
        }
        self.copied.set(self.copied.get() + len as u64);
        Ok(crc.map(|crc| Device::crc32c(crc, from)))
    }

    fn zero_memory(&self, position: u64, len: u64) -> Result<(), i32> {
        assert!(position + len <= self.identity.memory_size);
        let page_size = self.page_size() as u64;
        assert_eq!((position % page_size, len % page_size), (0, 0));
        self.countdown(&self.fail_zero)?;
        self.free(position / page_size, len / page_size);
        Ok(())
    }

    fn discard(&self) -> Result<(), i32> {
        self.countdown(&self.fail_zero)?;
        self.free(0, self.identity.pages());
        Ok(())
    }

    fn interrupted(&self) -> bool {
        self.signalled()
    }

    fn check_state(&self, state: &SavedState<'_>) -> Result<(), i32> {
        self.checked.set(self.checked.get() + 1);
        if self.fail_state.get() {
            return Err(self.errno.get());
        }
        assert!(state.bytes.len() <= STATE_MAX);
        self.version.set(state.version);
        Ok(())
    }

    fn commit_state(&self, state: &SavedState<'_>) -> Result<(), i32> {
        assert_eq!(self.version.get(), state.version);
        assert!(self.checked.get() > self.committed.get(), "not checked");
        self.committed.set(self.committed.get() + 1);
        *self.state.borrow_mut() = state.bytes.to_vec();
        let numbers = (0..).map_while(|index| self.table.get().get(index));
        *self.parts.borrow_mut() = numbers
            .filter_map(|part| Some((part.number, state.parts.get(part.number)?.to_vec())))
            .collect();
        Ok(())
    }
}
