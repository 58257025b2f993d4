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
    state_machine::{
        link::Link,
        owner::{
            FrontEnd,
            Request, //
        },
    },
    Migration, //
};
use crate::bindings;
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

impl Migration {
    /// Changes the state to that of number `to`. The data file is of the session that this began.
    ///
    /// # Safety
    ///
    /// `vdev` must be this instance's.
    pub(crate) unsafe fn set_v2_state(
        &self,
        vdev: *mut bindings::vfio_device,
        to: u32,
    ) -> Result<Option<DataFile>> {
        let refuse = |error: StateError| {
            self.core.refuse(format_args!("migration: {error}"));
            Error::from_errno(-error.errno())
        };
        let machine = &self.machine;
        let mut inner = machine.lock()?;
        let mut file = None;

        machine.check_owner(&inner, FrontEnd::V2)?;
        let to = State::from_v2(to).map_err(refuse)?;
        v2_check(inner.state(), to).map_err(refuse)?;
        if inner.state() == to {
            let transition = v2_transition(to, to).map_err(refuse)?;
            machine.change(&mut inner, &transition, Request::V2(None))?;
        }
        while inner.state() != to {
            let mut next = 0;
            // SAFETY: `vdev` is valid, and the two pairs that the core does not end on were refused.
            to_result(unsafe {
                bindings::vfio_mig_get_next_state(
                    vdev,
                    inner.state().to_v2(),
                    to.to_v2(),
                    &mut next,
                )
            })?;
            let next = State::from_v2(next).map_err(refuse)?;
            let transition = v2_transition(inner.state(), next).map_err(refuse)?;

            // What can fail comes first: the file before the change.
            let stream = if transition.opens_data_fd() {
                let stream = Stream::new(machine.clone(), self.core.clone(), machine.dirtied())?;
                file = Some(stream.file(next.is_saving())?);
                Some(stream as Arc<dyn Link>)
            } else {
                None
            };
            machine.change(&mut inner, &transition, Request::V2(stream))?;
        }
        if let Some(file) = inner.file() {
            file.changed();
        }
        Ok(file)
    }

    /// The number of the state.
    pub(crate) fn v2_state(&self) -> Result<u32> {
        Ok(self.machine.lock()?.state().to_v2())
    }

    /// Bytes that a save would have to move if the device were stopped now (P47).
    pub(crate) fn data_size(&self) -> Result<u64> {
        let inner = self.machine.lock()?;
        let buffered = inner.file().map_or(0, |file| file.buffered());
        Ok(self.machine.size(&inner).saturating_add(buffered as u64))
    }
}
