// SPDX-License-Identifier: GPL-2.0

//! Access to the migration region, as far as all generations have it in common.
//!
//! The registers are a table in crate `migration`. `v1`, `v7` and `v2018` say what each of them does, and
//! `region.rs` calls the one of the generation.

use super::{
    data_section::Window, //
    owner::Owner,
    state_machine::Locked,
};
use crate::{
    device::Device,
    driver::Driver, //
};
use core::fmt::Display;
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};
use migration::{
    fields::Direction,
    generation::Generation, //
};
use vfio::refuse;
use vfio_bindings as bindings;

/// An area of the region that may be mapped: offset and size.
pub(crate) type Area = (u64, u64);

impl<T: Driver> Device<T> {
    /// Returns the bytes of the region.
    pub(crate) fn migration_size(&self) -> u64 {
        self.data_section.layout().size()
    }

    /// Returns type and subtype of the region.
    pub(crate) fn migration_type(&self) -> (u32, u32) {
        match self.machine.generation() {
            Generation::V1 => (
                bindings::VFIO_REGION_TYPE_MIGRATION_DEPRECATED,
                bindings::VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED,
            ),
            Generation::V7 => (self.data_section.v7_type(), 1),
            Generation::V2018 => (1 << 30, 1),
        }
    }

    /// Returns the areas that may be mapped (P27, P28), or none.
    ///
    /// In the older generations the place of bitmaps is an area of its own, the first: the user of 2018
    /// looks for bitmaps at the start of an area, and for data as well.
    pub(crate) fn migration_areas(&self) -> ([Area; 2], usize) {
        let layout = self.data_section.layout();
        let whole = (layout.data_offset, layout.section_size);
        let first = self.data_section.bitmap_size() as u64;
        match self.machine.generation() {
            _ if !self.data_section.is_mappable() => ([whole; 2], 0),
            Generation::V1 => ([whole; 2], 1),
            Generation::V7 | Generation::V2018 => {
                ([(whole.0, first), (whole.0 + first, whole.1 - first)], 2)
            }
        }
    }

    /// Maps part of the data section.
    ///
    /// # Safety
    ///
    /// `vma` must be the area that the device's mmap handler was called with: shared, and never
    /// executable.
    pub(crate) unsafe fn migration_mmap(
        &self,
        vma: *mut bindings::vm_area_struct,
        offset: u64,
    ) -> Result {
        let Some(offset) = offset.checked_sub(self.data_section.layout().data_offset) else {
            refuse!(self, "migration region: the registers cannot be mapped");
            return Err(EINVAL);
        };
        if !self.data_section.is_mappable() {
            refuse!(self, "migration region: mapping is switched off");
            return Err(EINVAL);
        }
        // SAFETY: By the requirements of this function.
        unsafe { self.data_section.mmap(vma, offset) }
    }

    /// Returns the data section.
    pub(super) fn window(&self) -> Result<Window> {
        // SAFETY: The region is accessed only through files of the device. Each of them keeps it open,
        // and no window outlives the call that creates it.
        unsafe { self.data_section.window() }
    }

    /// Returns the part of the data section that has data in the older generations.
    pub(super) fn data_window(&self) -> Result<Window> {
        self.window()?.tail(self.data_section.bitmap_size())
    }

    /// Returns the offset of that part in the region.
    pub(super) fn data_part(&self) -> u64 {
        PAGE_SIZE as u64 + self.data_section.bitmap_size() as u64
    }

    /// Copies from the data section to the user. The range is inside.
    pub(super) fn read_section(&self, offset: u64, buf: UserPtr, len: usize) -> Result<usize> {
        // SAFETY: As in `window`.
        unsafe { self.data_section.read_user(offset, buf, len) }
    }

    /// Copies from the user to the data section. The range is inside.
    pub(super) fn write_section(&self, offset: u64, buf: UserPtr, len: usize) -> Result<usize> {
        // SAFETY: As in `window`.
        unsafe { self.data_section.write_user(offset, buf, len) }
    }

    /// Logs and returns a refusal of an access.
    pub(super) fn refuse_access(
        &self,
        direction: Direction,
        offset: u64,
        len: usize,
        reason: &dyn Display,
    ) -> Error {
        self.refuse(format_args!(
            "migration region: {direction:?} of {len} bytes at {offset:#x}: {reason}"
        ));
        EINVAL
    }

    /// Loads a section of `size` bytes that is complete, if there is one.
    pub(super) fn feed_section(
        &self,
        inner: &mut Locked<'_>,
        window: &Window,
        size: Option<u64>,
    ) -> Result {
        match size {
            Some(size) => self.feed_all(inner, window, size as usize),
            None => Ok(()),
        }
    }

    /// Refuses the end of a load while a section is announced and not complete.
    pub(super) fn check_incoming(&self, inner: &Locked<'_>) -> Result {
        let Owner::Region { incoming, .. } = &inner.owner else {
            return Ok(());
        };
        match incoming.announced() {
            None => Ok(()),
            Some(size) => {
                refuse!(
                    self,
                    "migration region: {} of {size} announced bytes were written",
                    incoming.arrived()
                );
                Err(EINVAL)
            }
        }
    }
}

/// Copies the values of registers to the user, in the byte order of the machine, as the UAPI says. A
/// register of 4 bytes is accessed alone.
pub(super) fn put_values(buf: UserPtr, len: usize, values: &[u64]) -> Result {
    let mut writer = UserSlice::new(buf, len).writer();
    match (len, values) {
        (4, [value]) => writer.write::<u32>(&(*value as u32)),
        _ => values
            .iter()
            .try_for_each(|value| writer.write::<u64>(value)),
    }
}

/// Copies values of registers from the user.
pub(super) fn get_values(buf: UserPtr, len: usize, values: &mut [u64]) -> Result {
    let mut reader = UserSlice::new(buf, len).reader();
    for value in values {
        *value = match len {
            4 => u64::from(reader.read::<u32>()?),
            _ => reader.read::<u64>()?,
        };
    }
    Ok(())
}
