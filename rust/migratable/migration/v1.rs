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

use super::owner::{
    FrontEnd,
    Request, //
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

impl<T: Driver> Device<T> {
    /// Reads from the region. Refusals are logged.
    pub(crate) fn v1_read(&self, offset: u64, buf: UserPtr, len: usize) -> Result<usize> {
        let target = decode(&self.data_section.layout(), offset, len, Direction::Read)
            .map_err(|r| self.refuse_access(Direction::Read, offset, len, &r))?;
        let register = match target {
            Target::Data { offset } => {
                return self.read_section(offset, buf, len);
            }
            Target::Register(register) => register,
        };

        // No lock is held over the copy: see `state_machine`.
        let (mut consumed, mut offered) = (None, None);
        let value = match register {
            Register::DeviceState => u64::from(self.lock_state()?.state.to_v1()),
            Register::Reserved => 0,
            Register::PendingBytes => {
                let (pending, number) = self.read_pending(&self.lock_state()?);
                consumed = number;
                pending
            }
            Register::DataOffset => {
                let mut window = self.window()?;
                let mut inner = self.lock_state()?;
                offered = self.stage(&mut inner, &mut window, self.data_section.size())?;
                self.data_section.layout().data_offset
            }
            Register::DataSize => self.lock_state()?.offered(),
        };
        // In the byte order of the machine, as the UAPI says.
        let mut writer = UserSlice::new(buf, len).writer();
        match len {
            4 => writer.write::<u32>(&(value as u32))?,
            _ => writer.write::<u64>(&value)?,
        }

        // A failed read offers and consumes nothing (P3). Another thread may have consumed the buffer before.
        if let Some(number) = offered {
            self.lock_state()?.offer(number);
        }
        if let Some(number) = consumed {
            self.lock_state()?.consume(number);
        }
        Ok(len)
    }

    /// Writes to the region. Refusals are logged.
    pub(crate) fn v1_write(&self, offset: u64, buf: UserPtr, len: usize) -> Result<usize> {
        let refuse =
            |reason: &dyn Display| self.refuse_access(Direction::Write, offset, len, reason);
        let target = decode(&self.data_section.layout(), offset, len, Direction::Write)
            .map_err(|r| refuse(&r))?;
        let register = match target {
            Target::Data { offset } => {
                return self.write_section(offset, buf, len);
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
        let mut inner = self.lock_state()?;
        permits(target, Direction::Write, inner.state).map_err(|r| refuse(&r))?;
        match register {
            Register::DeviceState => {
                let transition = v1_write(inner.state, value as u32).map_err(|r| {
                    // `EBUSY` in a state that only v2 can leave.
                    refuse(&r);
                    Error::from_errno(-r.errno())
                })?;
                self.change(
                    &mut inner,
                    &transition,
                    Request::Region(FrontEnd::V1, &mut window),
                )?;
            }
            Register::DataSize => {
                self.check_owner(&inner, FrontEnd::V1)?;
                if value == 0 || value > self.data_section.size() as u64 {
                    let reason = "data_size is 0 or beyond the data section";
                    return Err(refuse(&reason));
                }
                self.feed_all(&mut inner, &window, value as usize)?;
            }
            Register::Reserved | Register::PendingBytes | Register::DataOffset => {}
        }
        Ok(len)
    }
}
