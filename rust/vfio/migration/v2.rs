// SPDX-License-Identifier: GPL-2.0

//! The v2 interface: `VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE` and its data files.
//!
//! VFIO's core takes the ioctls apart and calls `ops/migration.rs`, which calls this. A change of
//! state is a path of direct transitions, which the core knows (P40); each is in the table of
//! [`migration::transition`].

use super::{
    data_file::{
        DataFile,
        Stream, //
    },
    link::Link,
    owner::{
        FrontEnd,
        Request, //
    }, //
};
use crate::{
    bindings,
    device::Device,
    driver::Driver, //
};
use kernel::{
    error::to_result,
    prelude::*,
    sync::Arc, //
};
use migration::{
    state::{
        State,
        StateError, //
    },
    transition::{
        v2_check,
        v2_transition, //
    },
};

impl<T: Driver> Device<T> {
    /// Changes the state to the one with number `to`. Returns the data file if this began a session.
    pub(crate) fn set_v2_state(&self, to: u32) -> Result<Option<DataFile>> {
        let refuse = |error: StateError| {
            self.refuse(format_args!("migration: {error}"));
            Error::from_errno(-error.errno())
        };
        let mut inner = self.machine.lock()?;
        let mut file = None;

        self.check_owner(&inner, FrontEnd::V2)?;
        let to = State::from_v2(to).map_err(refuse)?;
        v2_check(inner.state, to).map_err(refuse)?;
        if inner.state == to {
            let transition = v2_transition(to, to).map_err(refuse)?;
            self.change(&mut inner, &transition, Request::V2(None))?;
        }
        while inner.state != to {
            let mut next = 0;
            // SAFETY: The device is valid, and the two pairs for which the core never ends were refused.
            to_result(unsafe {
                bindings::vfio_mig_get_next_state(
                    self.as_raw(),
                    inner.state.to_v2(),
                    to.to_v2(),
                    &mut next,
                )
            })?;
            let next = State::from_v2(next).map_err(refuse)?;
            let transition = v2_transition(inner.state, next).map_err(refuse)?;

            // The file comes before the change, because it can fail.
            let stream = if transition.opens_data_fd() {
                let stream = Stream::new(self)?;
                file = Some(stream.file(next.is_saving())?);
                Some(stream as Arc<dyn Link>)
            } else {
                None
            };
            self.change(&mut inner, &transition, Request::V2(stream))?;
        }
        if let Some(file) = inner.file() {
            file.changed();
        }
        Ok(file)
    }

    /// Returns the number of the state.
    pub(crate) fn v2_state(&self) -> Result<u32> {
        Ok(self.machine.lock()?.state.to_v2())
    }

    /// Returns the bytes that a save has to move if the device is stopped now (P47).
    pub(crate) fn v2_data_size(&self) -> Result<u64> {
        let inner = self.machine.lock()?;
        let buffered = inner.file().map_or(0, |file| file.buffered());
        Ok(self.stop_copy_size(&inner).saturating_add(buffered as u64))
    }
}
