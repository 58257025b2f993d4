// SPDX-License-Identifier: GPL-2.0

//! The callbacks of `struct vfio_log_ops`: `VFIO_DEVICE_FEATURE_DMA_LOGGING_*`.

use crate::{
    device::Device,
    ops::DeviceOps,
    refuse, //
};
use core::marker::PhantomData;
use kernel::{
    ffi::{
        c_int,
        c_ulong, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};
use vfio_bindings as bindings;

/// The operations of the devices with data `T`.
pub(crate) struct VTable<T: DeviceOps>(PhantomData<T>);

impl<T: DeviceOps> VTable<T> {
    /// The operations for `vfio_device.log_ops`.
    pub(crate) const OPS: &'static bindings::vfio_log_ops = &bindings::vfio_log_ops {
        log_start: Some(log_start::<T>),
        log_stop: Some(log_stop::<T>),
        log_read_and_clear: Some(log_read_and_clear::<T>),
    };
}

/// The ranges of a `log_start()`.
///
/// # Safety
///
/// `ranges` must be a valid interval tree that nobody changes.
unsafe fn intervals(ranges: *mut bindings::rb_root_cached, count: u32) -> Result<KVec<(u64, u64)>> {
    let mut list = KVec::with_capacity(count as usize, GFP_KERNEL_ACCOUNT)?;
    // SAFETY: By the requirement of this function.
    let mut node = unsafe { bindings::interval_tree_iter_first(ranges, 0, c_ulong::MAX) };
    while !node.is_null() {
        // SAFETY: A node of the tree.
        let (start, last) = unsafe { ((*node).start, (*node).last) };
        list.push((start as u64, last as u64), GFP_KERNEL_ACCOUNT)?;
        // SAFETY: As above.
        node = unsafe { bindings::interval_tree_iter_next(node, 0, c_ulong::MAX) };
    }
    Ok(list)
}

/// # Safety
///
/// Called by VFIO for an open device; `ranges` and `page_size` are valid.
unsafe extern "C" fn log_start<T: DeviceOps>(
    vdev: *mut bindings::vfio_device,
    ranges: *mut bindings::rb_root_cached,
    nnodes: u32,
    page_size: *mut u64,
) -> c_int {
    // SAFETY: The device is registered.
    let this = unsafe { Device::<T>::from_raw(vdev) };
    // SAFETY: By the requirement of this function.
    let page_size = unsafe { &mut *page_size };
    if !page_size.is_power_of_two() {
        refuse!(this, "DMA logging: page size {:#x}", *page_size);
        return EINVAL.to_errno();
    }
    // SAFETY: By the requirement of this function; the tree is VFIO's, and local to its call.
    let ranges = unsafe { intervals(ranges, nnodes) };
    match ranges.and_then(|ranges| this.dma().start_logging(ranges)) {
        Ok(()) => {
            *page_size = PAGE_SIZE as u64;
            0
        }
        Err(e) => {
            if e == EINVAL {
                refuse!(this, "DMA logging: started twice");
            }
            e.to_errno()
        }
    }
}

/// # Safety
///
/// Called by VFIO for an open device.
unsafe extern "C" fn log_stop<T: DeviceOps>(vdev: *mut bindings::vfio_device) -> c_int {
    // SAFETY: The device is registered.
    unsafe { Device::<T>::from_raw(vdev) }.dma().stop_logging();
    0
}

/// # Safety
///
/// Called by VFIO for an open device; `dirty` is valid and covers `length` bytes at `iova`.
unsafe extern "C" fn log_read_and_clear<T: DeviceOps>(
    vdev: *mut bindings::vfio_device,
    iova: c_ulong,
    length: c_ulong,
    dirty: *mut bindings::iova_bitmap,
) -> c_int {
    // SAFETY: The device is registered.
    let this = unsafe { Device::<T>::from_raw(vdev) };
    let iova = iova as u64;
    let Some(len) = (length as u64).checked_sub(1) else {
        return 0;
    };
    let set = |first: u64, last: u64| {
        // SAFETY: By the requirement of this function; the range is inside of what it covers.
        unsafe { bindings::iova_bitmap_set(dirty, first as c_ulong, (last - first + 1) as usize) };
    };
    match this
        .dma()
        .report_written(iova, iova.saturating_add(len), set)
    {
        Ok(()) => 0,
        Err(e) => {
            refuse!(this, "DMA logging: report of what was not started");
            e.to_errno()
        }
    }
}
