// SPDX-License-Identifier: GPL-2.0

//! The v1 region: registers and the data section.
//!
//! [`migration::region`] has the table of registers. The effect of a read while a save is open:
//!
//! ```text
//!                     nothing staged     staged             staged, to be sent again
//!   pending_bytes     what is left       what is left;      what is left and the buffer
//!                                        the buffer is
//!                                        consumed
//!   data_offset       stages a buffer    -                  -            and reads the constant
//!   data_size         0                  its length         0 until data_offset is read
//! ```

use super::{
    data_section::Window, //
    owner::{
        FrontEnd,
        Request, //
    },
};
use crate::{
    device::Device,
    driver::Driver, //
};
use core::fmt::Display;
use kernel::{
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};
use migration::{
    region::{
        decode,
        permits,
        Direction,
        Register,
        Target, //
    },
    transition::v1_write, //
};
use vfio::refuse;
use vfio_bindings as bindings;

impl<T: Driver> Device<T> {
    /// Returns the bytes of the region.
    pub(crate) fn v1_size(&self) -> u64 {
        self.data_section.layout().size()
    }

    /// Returns offset and size of the area that may be mapped, if there is one (P27, P28).
    pub(crate) fn v1_mmap_area(&self) -> Option<(u64, u64)> {
        let layout = self.data_section.layout();
        self.data_section
            .is_mappable()
            .then_some((layout.data_offset, layout.section_size))
    }

    /// Returns the data section.
    fn window(&self) -> Result<Window> {
        // SAFETY: The region is accessed only through files of the device. Each of them keeps it open,
        // and no window outlives the call that creates it.
        unsafe { self.data_section.window() }
    }

    /// Logs and returns a refusal of an access.
    fn refuse_v1(
        &self,
        direction: Direction,
        offset: u64,
        len: usize,
        errno: i32,
        reason: &dyn Display,
    ) -> Error {
        self.refuse(format_args!(
            "migration region: {direction:?} of {len} bytes at {offset:#x}: {reason}"
        ));
        Error::from_errno(-errno)
    }

    /// Reads from the region. Refusals are logged.
    pub(crate) fn v1_read(&self, offset: u64, buf: UserPtr, len: usize) -> Result<usize> {
        let target = decode(&self.data_section.layout(), offset, len, Direction::Read)
            .map_err(|r| self.refuse_v1(Direction::Read, offset, len, r.errno(), &r))?;
        let register = match target {
            Target::Data { offset } => {
                // SAFETY: As in `window`.
                return unsafe { self.data_section.read_user(offset, buf, len) };
            }
            Target::Register(register) => register,
        };

        // No lock is held over the copy: see `state_machine`.
        let mut consumed = None;
        let value = match register {
            Register::DeviceState => u64::from(self.machine.inner.lock()?.state.to_v1()),
            Register::Reserved => 0,
            Register::PendingBytes => {
                let inner = self.machine.inner.lock()?;
                // v1 has nothing pending in a session of v2.
                let pending = match inner.owner.front_end() {
                    Some(FrontEnd::V1) => self.pending_bytes(&inner),
                    _ => 0,
                };
                match inner.staged() {
                    None => pending,
                    Some(staged) if staged.offered => {
                        consumed = Some(staged.number);
                        pending
                    }
                    Some(staged) => pending.saturating_add(staged.len as u64),
                }
            }
            Register::DataOffset => {
                let mut window = self.window()?;
                let mut inner = self.machine.inner.lock()?;
                self.stage(&mut inner, &mut window, self.data_section.size())?;
                self.data_section.layout().data_offset
            }
            Register::DataSize => match self.machine.inner.lock()?.staged() {
                Some(staged) if staged.offered => staged.len as u64,
                _ => 0,
            },
        };
        // In the byte order of the machine, as the UAPI says.
        let mut writer = UserSlice::new(buf, len).writer();
        match len {
            4 => writer.write::<u32>(&(value as u32))?,
            _ => writer.write::<u64>(&value)?,
        }

        // A failed read consumes nothing (P3). Another thread may have consumed the buffer before.
        if let Some(number) = consumed {
            self.machine.inner.lock()?.consume(number);
        }
        Ok(len)
    }

    /// Writes to the region. Refusals are logged.
    pub(crate) fn v1_write(&self, offset: u64, buf: UserPtr, len: usize) -> Result<usize> {
        let refuse = |errno, reason: &dyn Display| {
            self.refuse_v1(Direction::Write, offset, len, errno, reason)
        };
        let target = decode(&self.data_section.layout(), offset, len, Direction::Write)
            .map_err(|r| refuse(r.errno(), &r))?;
        let register = match target {
            Target::Data { offset } => {
                // SAFETY: As in `window`.
                return unsafe { self.data_section.write_user(offset, buf, len) };
            }
            Target::Register(register) => register,
        };

        // Copy before the lock is taken: see `state_machine`.
        let mut reader = UserSlice::new(buf, len).reader();
        let value = match len {
            4 => u64::from(reader.read::<u32>()?),
            _ => reader.read::<u64>()?,
        };

        let mut window = self.window()?;
        let mut inner = self.machine.inner.lock()?;
        permits(target, Direction::Write, inner.state).map_err(|r| refuse(r.errno(), &r))?;
        match register {
            Register::DeviceState => {
                let transition =
                    v1_write(inner.state, value as u32).map_err(|r| refuse(r.errno(), &r))?;
                self.change(&mut inner, &transition, Request::V1(&mut window))?;
            }
            Register::DataSize => {
                self.check_owner(&inner, FrontEnd::V1)?;
                if value == 0 || value > self.data_section.size() as u64 {
                    let reason = "data_size is 0 or beyond the data section";
                    return Err(refuse(EINVAL.to_errno().wrapping_neg(), &reason));
                }
                self.feed_all(&mut inner, &window, value as usize)?;
            }
            Register::Reserved | Register::PendingBytes | Register::DataOffset => {}
        }
        Ok(len)
    }

    /// Maps part of the data section.
    ///
    /// # Safety
    ///
    /// `vma` must be the area that the device's mmap handler was called with: shared, and never
    /// executable.
    pub(crate) unsafe fn v1_mmap(&self, vma: *mut bindings::vm_area_struct, offset: u64) -> Result {
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
}
