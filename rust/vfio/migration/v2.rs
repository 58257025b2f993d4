// SPDX-License-Identifier: GPL-2.0

//! The v2 interface: `VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE` and its data files.
//!
//! VFIO's core takes the ioctls apart and calls the three operations here. A change of state is a
//! path of direct arcs, which the core knows (P40); each is an arc of the table in
//! [`migration::state`].

use super::{
    data_file::{
        DataFile,
        Stream, //
    },
    session::FrontEnd,
    Migration, //
};
use crate::{
    bindings,
    instance::Instance, //
};
use kernel::{
    error::to_result,
    ffi::c_ulong,
    prelude::*, //
};
use migration::state::{
    self,
    State, //
};

/// What the device can do (P38).
pub(crate) const FLAGS: u32 = bindings::VFIO_MIGRATION_STOP_COPY
    | bindings::VFIO_MIGRATION_P2P
    | bindings::VFIO_MIGRATION_PRE_COPY;

/// The operations for `vfio_device.mig_ops`.
pub(crate) const OPERATIONS: &bindings::vfio_migration_ops = &bindings::vfio_migration_ops {
    migration_set_state: Some(set_state),
    migration_get_state: Some(get_state),
    migration_get_data_size: Some(get_data_size),
};

impl Migration {
    /// Changes the state to that of number `to`. The data file is of the session that this began.
    ///
    /// # Safety
    ///
    /// `vdev` must be this instance's.
    unsafe fn set_v2_state(
        &self,
        vdev: *mut bindings::vfio_device,
        to: u32,
    ) -> Result<Option<DataFile>> {
        let refuse = |refusal: state::Refusal| {
            self.core.refuse(format_args!("migration: {refusal}"));
            Error::from_errno(-refusal.errno())
        };
        let session = &self.session;
        let mut inner = session.lock()?;
        let mut file = None;

        session.check_owner(&inner, FrontEnd::V2)?;
        let to = State::from_v2(to).map_err(refuse)?;
        state::v2_check(inner.state(), to).map_err(refuse)?;
        if inner.state() == to {
            let arc = state::v2_arc(to, to).map_err(refuse)?;
            session.change(&mut inner, &arc, FrontEnd::V2, None)?;
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
            let arc = state::v2_arc(inner.state(), next).map_err(refuse)?;

            // What can fail comes first: the file before the change.
            let stream = if arc.opens_data_fd() {
                let stream = Stream::new(session.clone(), self.core.clone(), session.dirtied())?;
                file = Some(stream.file(next.is_saving())?);
                Some(stream)
            } else {
                None
            };
            session.change(&mut inner, &arc, FrontEnd::V2, None)?;
            if stream.is_some() {
                inner.stream = stream;
            }
        }
        if let Some(stream) = &inner.stream {
            stream.changed();
        }
        Ok(file)
    }

    /// Bytes that a save would have to move if the device were stopped now (P47).
    fn data_size(&self) -> Result<u64> {
        let inner = self.session.lock()?;
        let buffered = inner.stream.as_ref().map_or(0, |stream| stream.buffered());
        Ok(self.session.size(&inner).saturating_add(buffered as u64))
    }
}

/// # Safety
///
/// Called by VFIO for an open device.
unsafe extern "C" fn set_state(
    vdev: *mut bindings::vfio_device,
    to: bindings::vfio_device_mig_state,
) -> *mut bindings::file {
    // SAFETY: The device is registered.
    let this = unsafe { Instance::from_raw(vdev) };
    // SAFETY: `vdev` is the instance's.
    match unsafe { this.migration.set_v2_state(vdev, to) } {
        Ok(Some(file)) => file.into_raw(),
        Ok(None) => core::ptr::null_mut(),
        Err(error) => error.to_ptr(),
    }
}

/// # Safety
///
/// Called by VFIO for an open device; `state` is valid.
unsafe extern "C" fn get_state(
    vdev: *mut bindings::vfio_device,
    state: *mut bindings::vfio_device_mig_state,
) -> c_int {
    // SAFETY: The device is registered.
    let this = unsafe { Instance::from_raw(vdev) };
    match this.migration.session.lock() {
        Ok(inner) => {
            // SAFETY: By the requirement of this function.
            unsafe { *state = inner.state().to_v2() };
            0
        }
        Err(error) => error.to_errno(),
    }
}

/// # Safety
///
/// Called by VFIO for an open device; `size` is valid.
unsafe extern "C" fn get_data_size(vdev: *mut bindings::vfio_device, size: *mut c_ulong) -> c_int {
    // SAFETY: The device is registered.
    let this = unsafe { Instance::from_raw(vdev) };
    match this.migration.data_size() {
        Ok(bytes) => {
            // SAFETY: By the requirement of this function.
            unsafe { *size = bytes as c_ulong };
            0
        }
        Err(error) => error.to_errno(),
    }
}
