// SPDX-License-Identifier: GPL-2.0

//! The guest memory of one device.

use super::{
    chunk,
    device::OpenDevice,
    faults::Faults,
    list::{
        Request,
        Unmapped, //
    },
    pinned::PinnedRange,
    pins::Pins,
    range::Access,
    unmaps::Unmaps, //
};
use core::ptr::NonNull;
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
};
use kernel_ext::{
    rwsem::{
        new_rwsem,
        ReadGuard,
        RwSem, //
    },
    sched::not_killed, //
};
use vfio_bindings as bindings;

/// The most bytes copied in one call into type1, which holds its lock meanwhile.
const CHUNK: usize = 64 << 10;

/// How long nothing is pinned after there was no memory to lock, in nanoseconds.
const FULL: i64 = 10_000_000_000;

/// The guest memory of one device.
#[pin_data]
pub struct Dma {
    /// The device while it is open.
    #[pin]
    device: RwSem<Option<OpenDevice>>,
    /// What is pinned.
    pins: Arc<Pins>,
    /// Whether the log says, since the device was opened, that a ring cannot be pinned.
    told: Atomic<bool>,
    /// How often the device was opened.
    opens: Atomic<u64>,
    /// Nothing is pinned before this time of `ktime_get()`: the user can lock no more memory.
    full_until: Atomic<i64>,
}

impl Dma {
    /// Returns the guest memory of a device that is not open.
    pub fn new(unmaps: Arc<Unmaps>, faults: Faults) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            device <- new_rwsem!(None, "dma device"),
            pins: Pins::new(unmaps, faults)?,
            told: Atomic::new(false),
            opens: Atomic::new(0),
            full_until: Atomic::new(i64::MIN),
        })
    }

    /// Sets the device when it was opened, and `None` when it is about to be closed.
    ///
    /// Closing waits for accesses in flight, refuses later ones, and unpins what is still pinned.
    ///
    /// # Safety
    ///
    /// `device` must be open, and stay open until this is called with `None`.
    pub unsafe fn set_device(&self, device: Option<NonNull<bindings::vfio_device>>) {
        *self.device.write() = device.map(OpenDevice);
        if device.is_none() {
            #[cfg(mutation_dirty_page)]
            crate::mutation::forget();
            self.revoke_all();
            self.pins.closed();
            self.pins.logging.stop();
        } else {
            self.opens.fetch_add(1, Relaxed);
        }
        self.told.store(false, Relaxed);
        self.full_until.store(i64::MIN, Relaxed);
    }

    /// Returns the device, and a guard that keeps it open.
    #[inline]
    fn device(&self) -> Result<(OpenDevice, ReadGuard<'_, Option<OpenDevice>>)> {
        let guard = self.device.read();
        match *guard {
            Some(device) => Ok((device, guard)),
            None => Err(ENODEV),
        }
    }

    /// Copies from guest memory.
    ///
    /// Fails with `EINVAL` where nothing is mapped at an IOVA, `EPERM` where the mapping does not
    /// allow it, `EFAULT` where the user's memory is not there or belongs to another process than the one
    /// that set bus master, `EOVERFLOW` if the range wraps, `EINTR` if the task is killed, and `ENODEV`
    /// while the device is not open. After an error a part of `data` may have been filled.
    #[inline]
    pub fn read(&self, iova: u64, data: &mut [u8]) -> Result {
        // SAFETY: The slice is valid for writes of its length.
        unsafe { self.read_raw(iova, data.as_mut_ptr(), data.len()) }
    }

    /// Copies to guest memory. Errors are those of [`Dma::read`]. Pages that were written before an
    /// error are reported as dirty too.
    #[inline]
    pub fn write(&self, iova: u64, data: &[u8]) -> Result {
        // SAFETY: The slice is valid for reads of its length.
        unsafe { self.write_raw(iova, data.as_ptr(), data.len()) }
    }

    /// [`Dma::read`] to memory that others may access at the same time.
    ///
    /// # Safety
    ///
    /// `to` must be valid for writes of `len` bytes by C.
    pub unsafe fn read_raw(&self, iova: u64, to: *mut u8, len: usize) -> Result {
        self.pins.faults.dma.pass(EFAULT)?;
        // SAFETY: By the requirements of this function.
        unsafe { self.copy_from(iova, to, len) }
    }

    /// [`Dma::read_raw`] of the framework's own.
    ///
    /// # Safety
    ///
    /// As for [`Dma::read_raw`].
    unsafe fn copy_from(&self, iova: u64, to: *mut u8, len: usize) -> Result {
        check(iova, len)?;
        let (device, _open) = self.device()?;
        let mut done = 0;
        while done < len {
            not_killed()?;
            let n = CHUNK.min(len - done);
            // SAFETY: `done + n <= len`, so the caller guarantees these bytes.
            unsafe { device.rw(iova + done as u64, to.add(done), n, false)? };
            done += n;
        }
        Ok(())
    }

    /// [`Dma::write`] from memory that others may access at the same time.
    ///
    /// # Safety
    ///
    /// `from` must be valid for reads of `len` bytes by C.
    pub unsafe fn write_raw(&self, iova: u64, from: *const u8, len: usize) -> Result {
        self.pins.faults.dma.pass(EFAULT)?;
        check(iova, len)?;
        let (device, _open) = self.device()?;
        let mut done = 0;
        while done < len {
            not_killed()?;
            let n = CHUNK.min(len - done);
            // SAFETY: `done + n <= len`, so the caller guarantees these bytes.
            unsafe { self.write_chunk(device, iova + done as u64, from.add(done), n)? };
            done += n;
        }
        Ok(())
    }

    /// Pins guest memory.
    ///
    /// The range may begin and end anywhere in a page. Errors are those of [`Dma::read`] and:
    ///
    /// - `E2BIG`: the range has more than 512 pages.
    /// - `EBUSY`: the device has as many pinned ranges as it may.
    /// - `EAGAIN`: memory there is being unmapped. This does not wait for the end of the unmap.
    /// - `ENODEV`: the memory was unmapped meanwhile.
    /// - `ENOMEM`: also when the user's `RLIMIT_MEMLOCK` is reached, and for ten seconds after that,
    ///   because type1 logs each attempt and a guest can cause any number of them.
    /// - `EFAULT`: also when the user's memory cannot be pinned, such as a shared mapping of a file.
    ///
    /// A task that waits for a page here cannot be killed, because type1 and iommufd ignore signals: see
    /// [`Dma::touch`].
    pub(super) fn pin(
        &self,
        iova: u64,
        len: usize,
        access: Access,
        unmapped: Option<Arc<Unmapped>>,
    ) -> Result<PinnedRange> {
        check(iova, len)?;
        if len == 0 {
            return Err(EINVAL);
        }
        // Before anything is locked: this may wait.
        let fault = self.pins.faults.pin.pass(ENOMEM);
        if fault == Err(EINTR) {
            return Err(EINTR);
        }
        let (device, _open) = self.device()?;
        // SAFETY: A function without preconditions.
        let now = || unsafe { bindings::ktime_get() };
        if now() < self.full_until.load(Relaxed) {
            return Err(ENOMEM);
        }
        let request = Request {
            device,
            iova,
            len,
            access,
            unmapped,
        };
        let listed = fault.and_then(|()| Pins::pin(&self.pins, request));
        let listed = listed.inspect_err(|&error| {
            if error == ENOMEM {
                self.full_until.store(now().saturating_add(FULL), Relaxed);
            }
        })?;
        Ok(PinnedRange::new(self.pins.clone(), listed))
    }

    /// Returns how often the device was opened.
    pub(super) fn opens(&self) -> u64 {
        self.opens.load(Relaxed)
    }

    /// Reads a byte of each page of a range, so that [`Dma::pin`] does not wait for them.
    ///
    /// `vfio_pin_pages()` ignores signals while it waits for a page, such as one of a FUSE file, and
    /// holds a lock of the container meanwhile. This read can be killed. A FUSE server can still drop
    /// the page between the two calls; then the wait ends only when the server answers or exits. Errors
    /// are those of [`Dma::read`].
    pub(super) fn touch(&self, iova: u64, len: usize) -> Result {
        check(iova, len)?;
        let mut at = 0;
        while at < len {
            let byte = iova + at as u64;
            let mut found = [0];
            // SAFETY: The array is valid for writes of its length.
            unsafe { self.copy_from(byte, found.as_mut_ptr(), found.len())? };
            at += PAGE_SIZE - byte as usize % PAGE_SIZE;
        }
        Ok(())
    }

    /// Returns the `EAGAIN` or `EBUSY` with which [`Dma::pin`] would fail at this moment.
    pub(super) fn may_pin(&self, iova: u64, len: usize) -> Result {
        check(iova, len)?;
        self.pins.admit(iova, iova + (len as u64).saturating_sub(1))
    }

    /// Returns whether this is the first call since the device was opened.
    pub(super) fn tell_once(&self) -> bool {
        !self.told.xchg(true, Relaxed)
    }

    /// Returns how many looks of type1 found the same pages pinned: the maximum of all devices of the
    /// parent.
    pub fn unmap_looks_max(&self) -> u32 {
        self.pins.looks_max()
    }

    /// Unpins memory that is being unmapped (P35).
    ///
    /// A range that overlaps the memory is unpinned as a whole, and its later accesses fail.
    /// `by_iommufd` tells whether iommufd unmaps, and not type1.
    pub fn unmap(&self, iova: u64, len: u64, by_iommufd: bool) {
        let Some(last) = len.checked_sub(1).map(|len| iova.saturating_add(len)) else {
            return;
        };
        if by_iommufd {
            self.pins.revoke(iova, last, true);
        } else {
            Pins::unmap(&self.pins, iova, last);
        }
    }

    /// Unpins everything.
    pub fn revoke_all(&self) {
        self.pins.revoke(0, u64::MAX, false);
    }

    /// Writes one chunk. Every page that may have changed is reported, also after an error: see
    /// [`chunk`].
    ///
    /// # Safety
    ///
    /// `from` must be valid for reads of `len` bytes by C, and the device must be open for the length
    /// of the call.
    unsafe fn write_chunk(
        &self,
        device: OpenDevice,
        iova: u64,
        from: *const u8,
        len: usize,
    ) -> Result {
        #[cfg(mutation_dirty_page)]
        let (iova, from, len) = {
            let mut n = 0;
            // type1 reports pinned pages in any case.
            if self.pins.is_clear(iova, iova + (len as u64 - 1)) {
                // SAFETY: By the requirements of this function.
                n = unsafe { crate::mutation::divert(device.0.as_ptr(), iova, from, len) };
            }
            if n == len {
                return Ok(());
            }
            (iova + n as u64, from.wrapping_add(n), len - n)
        };
        let write = |at: usize, n: usize| {
            // SAFETY: By the requirements of this function, as `at + n <= len`; `from` is only read.
            unsafe { device.rw(iova + at as u64, from.add(at).cast_mut(), n, true) }
        };
        let logging = &self.pins.logging;
        if logging.is_active() {
            // One page a call, so that the log has no page of which no byte was written.
            for (at, n) in chunk::pages(iova, len, PAGE_SIZE) {
                let result = write(at, n);
                if !matches!(&result, Err(error) if [EINVAL, EPERM, ENOENT].contains(error)) {
                    logging.wrote(iova + at as u64, n);
                }
                result?;
            }
            return Ok(());
        }
        let result = chunk::write(iova, len, PAGE_SIZE, write);
        // Logging may have begun meanwhile.
        logging.wrote(iova, len);
        result
    }
}

impl Dma {
    /// Begins to log what the device writes in `ranges`. Each range is its first and last byte; they are in
    /// ascending order. `EINVAL` if logging has begun before.
    pub fn start_logging(&self, ranges: KVec<(u64, u64)>) -> Result {
        self.pins.logging.start(ranges)
    }

    /// Ends logging and discards the log.
    pub fn stop_logging(&self) {
        self.pins.logging.stop();
    }

    /// Calls `report` with the ranges in `iova..=last` that the device has written, and forgets them. `EINVAL` if nothing is logged.
    pub fn report_written(&self, iova: u64, last: u64, report: impl FnMut(u64, u64)) -> Result {
        self.pins.logging.read_and_clear(iova, last, report)
    }
}

/// Refuses a range that wraps: type1 does not check for overflow. A range may end at 2^64.
#[inline]
pub fn check(iova: u64, len: usize) -> Result {
    let last = (len as u64).saturating_sub(1);
    iova.checked_add(last).map(|_| ()).ok_or(EOVERFLOW)
}
