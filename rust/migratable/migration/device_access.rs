// SPDX-License-Identifier: GPL-2.0

//! The device as crate `migration` accesses it.

use super::stream_buffer::DynBuffer;
use crate::{
    device::Device,
    driver::Driver,
    host_end::{
        self,
        HostEnd, //
    },
    memory::DeviceMemory,
    stream::{
        self as field,
        Reader,
        Writer, //
    },
    timers::{
        self,
        Timers, //
    },
};
use core::{
    cell::Cell,
    sync::atomic::AtomicU64, //
};
use kernel::{
    ffi::c_void,
    prelude::*, //
};
use kernel_ext::sched::not_killed;
use migration::{
    dirty::{
        DirtyMap,
        Run, //
    },
    load::Sink,
    save::Source,
    stream::{
        self,
        Changes,
        Checksum,
        Header,
        Kind,
        Part,
        SavedState,
        HEADER_SIZE, //
    },
};
use vfio::{
    refuse,
    trace, //
};
use vfio_bindings as bindings;

/// A decoded state: the timers, the input of the host end, and the state of the driver.
type Saved<'a, T> = (timers::Saved, &'a [u8], <T as Driver>::State);

/// A device as crate `migration` sees it: the source of a save, the sink of a load.
pub(super) struct DeviceAccess<'a, T: Driver> {
    dev: &'a Device<T>,
    /// Whether the driver refused, or a fault was injected. The log says so.
    refused: Cell<bool>,
    /// Whether the next access to the stream fails: a fault was injected into this call.
    doomed: Cell<bool>,
    /// Whether a fault was injected into a record, and the point waits for [`DeviceAccess::reported`].
    due: Cell<bool>,
}

impl<'a, T: Driver> DeviceAccess<'a, T> {
    /// Returns the access of a device.
    pub(super) fn new(dev: &'a Device<T>) -> Self {
        Self {
            dev,
            refused: Cell::new(false),
            doomed: Cell::new(false),
            due: Cell::new(false),
        }
    }

    /// Logs why something failed, unless the driver has logged it.
    pub(super) fn refuse(&self, what: &str, error: &stream::Error) {
        if !self.refused.get() {
            refuse!(self.dev, "migration: {what}: {error}");
        }
    }

    /// Passes the point at which a load of a buffer can be made to fail. It fails at its next access to the
    /// stream then, as if that had failed. `EINTR` if the task is killed.
    pub(super) fn doom_load(&self) -> Result {
        match self.dev.faults.load.pass(EIO) {
            Err(error) if error == EIO => {
                self.injected("load");
                self.doomed.set(true);
                Ok(())
            }
            result => result,
        }
    }

    /// The user learns of the error of a save. An error after a complete record is not reported: the next
    /// call meets it again.
    pub(super) fn reported(&self) {
        if self.due.get() {
            self.dev.faults.save_record.spend();
            self.injected("save_record");
        }
    }

    /// Logs that a fault was injected.
    fn injected(&self, name: &str) {
        if !self.refused.replace(true) {
            refuse!(self.dev, "fault injection: {name} fails (EIO)");
        }
    }

    /// Fails if a fault was injected into this call.
    fn check_doom(&self) -> Result<(), i32> {
        match self.doomed.get() {
            true => Err(EIO.to_errno()),
            false => Ok(()),
        }
    }

    /// Notes that the driver refused. The driver has logged why, except for a field that was incomplete or did
    /// not fit.
    fn refused(&self, error: Error, field: Option<field::Error>) -> i32 {
        if let Some(field) = field {
            refuse!(self.dev, "saved state: {field}");
        }
        self.refused.set(true);
        error.to_errno()
    }

    /// Decodes all of a saved state: the timers and the input of the host end, then the state of the driver.
    fn decode<'b>(&self, state: &SavedState<'b>) -> Result<Saved<'b, T>, i32> {
        let mut input = Reader::new(state);
        let decoded = Self::decode_sections(self.dev, &mut input);
        let decoded = decoded.map_err(|e| self.refused(e, input.error()))?;
        if input.remaining() != 0 {
            let rest = input.remaining();
            refuse!(self.dev, "saved state: {rest} bytes too many");
            return Err(self.refused(EINVAL, None));
        }
        Ok(decoded)
    }

    /// Decodes the sections of a saved state.
    fn decode_sections<'b>(dev: &Device<T>, input: &mut Reader<'b>) -> Result<Saved<'b, T>> {
        let timers = Timers::decode(T::TIMERS, input)?;
        let host = match T::HOST_END {
            true => HostEnd::decode(input)?,
            false => &[],
        };
        Ok((timers, host, T::decode(dev, input)?))
    }

    /// Returns the device memory. Only a device with memory has ranges to access.
    fn memory(&self) -> Result<&DeviceMemory, i32> {
        self.dev.memory().ok_or(ERANGE.to_errno())
    }
}

impl<T: Driver> Checksum for DeviceAccess<'_, T> {
    fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
        // SAFETY: The slice is valid for reads of its length.
        unsafe { bindings::crc32c(crc, bytes.as_ptr().cast::<c_void>(), bytes.len()) }
    }
}

impl<T: Driver> Source for DeviceAccess<'_, T> {
    type Out = DynBuffer;
    type Words = KVVec<AtomicU64>;

    fn dirty(&self) -> &DirtyMap<KVVec<AtomicU64>> {
        self.dev
            .memory()
            .map_or(&self.dev.machine.no_pages, DeviceMemory::dirty)
    }

    fn populated(&self, run: Run) -> Option<Run> {
        self.dev.memory()?.populated(run)
    }

    fn populated_pages(&self) -> u64 {
        self.dev.memory().map_or(0, DeviceMemory::populated_pages)
    }

    fn interrupted(&self) -> bool {
        not_killed().is_err()
    }

    fn put(&self, out: &mut DynBuffer, at: usize, bytes: &[u8]) -> Result<(), i32> {
        out.put(at, bytes).map_err(Error::to_errno)
    }

    fn copy_memory(
        &self,
        out: &mut DynBuffer,
        at: usize,
        position: u64,
        len: usize,
        crc: Option<u32>,
    ) -> Result<Option<u32>, i32> {
        let memory = self.memory()?;
        memory
            .protect(position, len as u64)
            .and_then(|()| out.put_memory(at, memory, position, len, crc))
            .map_err(Error::to_errno)
    }

    fn save_state(&self, buf: &mut [u8]) -> Result<usize, i32> {
        let mut out = Writer::new(buf);
        let timers = self.dev.worker.timers();
        let mut save = || -> Result {
            timers.save(T::TIMERS, &mut out)?;
            if T::HOST_END {
                self.dev.host_end.save(&mut out)?;
            }
            T::save(self.dev, &mut out)
        };
        save().map_err(|e| self.refused(e, out.error()))?;
        Ok(out.len())
    }

    fn state_size(&self, _max: u32) -> u64 {
        let mut size = T::state_size(self.dev) + timers::saved_size(T::TIMERS);
        if T::HOST_END {
            size += host_end::SAVED_SIZE;
        }
        size as u64
    }

    fn changes(&self) -> Changes {
        self.dev.machine.part_changes.get()
    }

    fn take_changes(&self) -> Changes {
        self.dev.machine.part_changes.take()
    }

    fn part_bytes(&self, part: &Part) -> u64 {
        T::part_bytes(self.dev, part) as u64
    }

    fn save_part(&self, part: &Part, buf: &mut [u8]) -> Result<usize, i32> {
        let mut out = Writer::new(buf);
        T::save_part(self.dev, part, &mut out).map_err(|e| self.refused(e, out.error()))?;
        Ok(out.len())
    }

    fn admit(&self) -> Result<(), i32> {
        if self.dev.faults.save_record.due().map_err(Error::to_errno)? {
            self.due.set(true);
            return Err(EIO.to_errno());
        }
        Ok(())
    }

    fn saved(&self, header: &Header, extent: u64) {
        trace::saved(&self.dev.mdev, &traced(header, extent));
    }

    fn pass_starts(&self, pass: u64, taken: u64) {
        trace::pass_start(&self.dev.mdev, pass, || {
            taken.saturating_add(self.dirty().count())
        });
    }

    fn pass_ended(&self, pass: u64, pages: u64) {
        trace::pass_end(&self.dev.mdev, pass, pages);
    }
}

impl<T: Driver> Sink for DeviceAccess<'_, T> {
    type In = DynBuffer;

    fn get(&self, input: &DynBuffer, at: usize, buf: &mut [u8]) -> Result<(), i32> {
        self.check_doom()?;
        input.get(at, buf).map_err(Error::to_errno)
    }

    fn copy_memory(
        &self,
        input: &DynBuffer,
        at: usize,
        position: u64,
        len: usize,
        crc: Option<u32>,
    ) -> Result<Option<u32>, i32> {
        let memory = self.memory()?;
        self.check_doom()?;
        input
            .get_memory(at, memory, position, len, crc)
            .map_err(Error::to_errno)
    }

    fn zero_memory(&self, position: u64, len: u64) -> Result<(), i32> {
        self.memory()?.free(position, len).map_err(Error::to_errno)
    }

    fn discard(&self) -> Result<(), i32> {
        match self.dev.memory() {
            Some(memory) => memory.free(0, memory.size()).map_err(Error::to_errno),
            None => Ok(()),
        }
    }

    fn interrupted(&self) -> bool {
        not_killed().is_err()
    }

    fn check_state(&self, state: &SavedState<'_>) -> Result<(), i32> {
        self.decode(state).map(|_| ())
    }

    fn commit_state(&self, state: &SavedState<'_>) -> Result<(), i32> {
        let (timers, host, state) = self.decode(state)?;
        self.dev.host_end.restore(host);
        T::restore(self.dev, state);
        self.dev.worker.timers().restore(&timers);
        Ok(())
    }

    fn admit(&self) -> Result<(), i32> {
        let result = self.dev.faults.load_record.pass(EIO);
        if result == Err(EIO) {
            self.injected("load_record");
        }
        result.map_err(Error::to_errno)
    }

    fn loaded(&self, header: &Header, extent: u64) {
        trace::loaded(&self.dev.mdev, &traced(header, extent));
    }
}

/// Returns a record as trace events have it.
#[inline]
fn traced(header: &Header, extent: u64) -> trace::Record {
    trace::Record {
        kind: header.kind.into(),
        sequence: header.sequence,
        position: header.position,
        length: match Kind::from_u16(header.kind) {
            Some(Kind::Zero) => extent,
            _ => header.length.into(),
        },
        bytes: HEADER_SIZE as u64 + u64::from(header.length),
    }
}
