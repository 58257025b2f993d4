// SPDX-License-Identifier: GPL-2.0

//! The v2 interface: `VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE` and its data files.
//!
//! VFIO's core decodes the ioctls and calls `ops/migration.rs`, which calls this. A change of state is a
//! path of direct transitions. The core knows the path (P40), and [`migration::transition`] has a table of
//! the transitions.

use super::{
    link::Link,
    migration_file::MigrationFile,
    owner::{
        FrontEnd,
        Request, //
    },
};
use crate::{
    device::{
        Device,
        VfioDevice, //
    },
    driver::Driver, //
};
use kernel::{
    fs::File,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
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
    pub(crate) fn set_v2_state(dev: &VfioDevice<T>, to: u32) -> Result<Option<ARef<File>>> {
        let refuse = |error: StateError| {
            dev.refuse(format_args!("migration: {error}"));
            Error::from_errno(-error.errno())
        };
        let mut inner = dev.lock_state()?;
        let mut file = None;

        dev.check_owner(&inner, FrontEnd::V2)?;
        let to = State::from_v2(to).map_err(refuse)?;
        v2_check(inner.state, to).map_err(refuse)?;
        if inner.state == to {
            let transition = v2_transition(to, to).map_err(refuse)?;
            dev.change(&mut inner, &transition, Request::V2(None))?;
        }
        while inner.state != to {
            let next = dev.next_migration_state(inner.state.to_v2(), to.to_v2())?;
            let next = State::from_v2(next).map_err(refuse)?;
            let transition = v2_transition(inner.state, next).map_err(refuse)?;

            // Create the file before the change, because that can fail.
            let stream = if transition.opens_data_fd() {
                let stream = MigrationFile::new(dev)?;
                file = Some(stream.file(next.is_saving())?);
                Some(stream as Arc<dyn Link>)
            } else {
                None
            };
            dev.change(&mut inner, &transition, Request::V2(stream))?;
        }
        if let Some(file) = inner.file() {
            file.changed();
        }
        Ok(file)
    }

    /// Returns the number of the state.
    pub(crate) fn v2_state(&self) -> Result<u32> {
        Ok(self.lock_state()?.state.to_v2())
    }

    /// Returns how many bytes a save would move if the device stopped now (P47).
    pub(crate) fn v2_data_size(&self) -> Result<u64> {
        let inner = self.lock_state()?;
        let buffered = inner.file().map_or(0, |file| file.buffered());
        Ok(self.stop_copy_size(&inner).saturating_add(buffered as u64))
    }
}
