// SPDX-License-Identifier: GPL-2.0

//! The trace events: what a device does, for `perf`, `trace-cmd` and tracefs.
//!
//! `rust/helpers/trace.h` defines them and their fields. Each module has them in a trace system with the
//! name of the module. While an event is off, a call of a function here costs a static branch.

use core::ptr;
use kernel::{
    device::Device,
    ffi::c_int, //
};
use vfio_bindings as bindings;

/// What caused a change of state. The numbers are known to `rust/helpers/trace.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Cause {
    /// The device was opened.
    Open = 0,
    /// The device was reset.
    Reset = 1,
    /// The device has failed.
    Failure = 2,
    /// A write to the v1 region.
    V1 = 3,
    /// A write to the region of v7.
    V7 = 4,
    /// A write to the region of 2018.
    V2018 = 5,
    /// An ioctl of v2.
    V2 = 6,
}

/// A record of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// The number of its kind.
    pub kind: u32,
    /// Its number in the stream.
    pub sequence: u64,
    /// The position of what it describes.
    pub position: u64,
    /// The bytes that it describes.
    pub length: u64,
    /// Its size in the stream.
    pub bytes: u64,
}

/// The entry points, which want a valid device.
mod events {
    use kernel::ffi::c_int;
    use vfio_bindings as bindings;

    kernel_ext::declare_trace! {
        /// # Safety
        ///
        /// `dev` is valid.
        pub(super) unsafe fn vfio_mig_state(dev: *const bindings::device, from: u32, to: u32, cause: u32);

        /// # Safety
        ///
        /// `dev` is valid.
        pub(super) unsafe fn vfio_mig_save_record(
            dev: *const bindings::device, kind: u32, sequence: u64, position: u64, length: u64, bytes: u64,
        );

        /// # Safety
        ///
        /// `dev` is valid.
        pub(super) unsafe fn vfio_mig_load_record(
            dev: *const bindings::device, kind: u32, sequence: u64, position: u64, length: u64, bytes: u64,
        );

        /// # Safety
        ///
        /// `dev` is valid.
        pub(super) unsafe fn vfio_mig_pass_start(dev: *const bindings::device, pass: u64, pages: u64);

        /// # Safety
        ///
        /// `dev` is valid.
        pub(super) unsafe fn vfio_mig_pass_end(dev: *const bindings::device, pass: u64, pages: u64);

        /// # Safety
        ///
        /// `dev` is valid.
        pub(super) unsafe fn vfio_pin_pages(
            dev: *const bindings::device, iova: u64, npages: u32, writable: bool, ret: c_int,
        );

        /// # Safety
        ///
        /// `dev` is valid.
        pub(super) unsafe fn vfio_unpin_pages(dev: *const bindings::device, iova: u64, npages: u32);

        /// # Safety
        ///
        /// `dev` is valid.
        pub(super) unsafe fn vfio_dma_unmap(dev: *const bindings::device, iova: u64, size: u64);
    }
}

/// Returns the `struct device`.
#[inline]
fn raw(dev: &Device) -> *const bindings::device {
    // CAST: `Device` is a transparent wrapper.
    ptr::from_ref(dev).cast()
}

/// The migration state has changed. Both states are numbers of v2.
#[inline]
pub fn state(dev: &Device, from: u32, to: u32, cause: Cause) {
    // SAFETY: The reference is to a valid device.
    unsafe { events::vfio_mig_state(raw(dev), from, to, cause as u32) }
}

/// A save has put a record into its buffer.
#[inline]
pub fn saved(dev: &Device, record: &Record) {
    let Record {
        kind,
        sequence,
        position,
        length,
        bytes,
    } = *record;
    // SAFETY: The reference is to a valid device.
    unsafe { events::vfio_mig_save_record(raw(dev), kind, sequence, position, length, bytes) }
}

/// A load has applied a record.
#[inline]
pub fn loaded(dev: &Device, record: &Record) {
    let Record {
        kind,
        sequence,
        position,
        length,
        bytes,
    } = *record;
    // SAFETY: The reference is to a valid device.
    unsafe { events::vfio_mig_load_record(raw(dev), kind, sequence, position, length, bytes) }
}

/// Pass number `pass` of a save begins; `pages` counts the dirty pages, only if somebody watches.
#[inline]
pub fn pass_start(dev: &Device, pass: u64, pages: impl FnOnce() -> u64) {
    if events::vfio_mig_pass_start_enabled() {
        // SAFETY: The reference is to a valid device.
        unsafe { events::vfio_mig_pass_start(raw(dev), pass, pages()) }
    }
}

/// Pass number `pass` of a save has ended.
#[inline]
pub fn pass_end(dev: &Device, pass: u64, pages: u64) {
    // SAFETY: The reference is to a valid device.
    unsafe { events::vfio_mig_pass_end(raw(dev), pass, pages) }
}

/// type1 was asked to pin pages, and has answered.
///
/// # Safety
///
/// The device is valid.
#[inline]
pub(crate) unsafe fn pin(
    vdev: *const bindings::vfio_device,
    iova: u64,
    npages: usize,
    writable: bool,
    ret: c_int,
) {
    // SAFETY: By the requirement of this function. VFIO sets `dev` when it allocates the device, which has a
    // reference to it.
    unsafe { events::vfio_pin_pages((*vdev).dev, iova, npages as u32, writable, ret) }
}

/// Pages were unpinned.
///
/// # Safety
///
/// The device is valid.
#[inline]
pub(crate) unsafe fn unpin(vdev: *const bindings::vfio_device, iova: u64, npages: usize) {
    // SAFETY: As in `pin`.
    unsafe { events::vfio_unpin_pages((*vdev).dev, iova, npages as u32) }
}

/// The user unmaps memory.
///
/// # Safety
///
/// The device is valid.
#[inline]
pub(crate) unsafe fn unmap(vdev: *const bindings::vfio_device, iova: u64, size: u64) {
    // SAFETY: As in `pin`.
    unsafe { events::vfio_dma_unmap((*vdev).dev, iova, size) }
}
