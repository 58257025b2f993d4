// SPDX-License-Identifier: GPL-2.0

//! What Cloud Hypervisor does with a device that migrates, call by call.
//!
//! The order is that of `pci/src/vfio.rs` and `vmm/src/lib.rs` of Cloud Hypervisor at commit ae44c2971c83 (August 2026);
//! each function names its counterpart there. No code is taken from it.

use vfio_bindings::bindings::vfio::{
    vfio_device_mig_state_VFIO_DEVICE_STATE_RESUMING as RESUMING,
    vfio_device_mig_state_VFIO_DEVICE_STATE_RUNNING as RUNNING,
    vfio_device_mig_state_VFIO_DEVICE_STATE_STOP as STOP,
    vfio_device_mig_state_VFIO_DEVICE_STATE_STOP_COPY as STOP_COPY,
};

use crate::error::{Error, Result};
use crate::machine::Machine;

/// A saved device: what the VMM itself keeps, and the device's data.
pub(crate) struct Snapshot {
    /// The command register, which Cloud Hypervisor has in its own copy of configuration space.
    pub(crate) command: u16,
    /// The device's data, opaque to the VMM.
    pub(crate) data: Vec<u8>,
}

impl Machine {
    /// `Pausable::pause`: the vCPUs are stopped, then the device.
    pub(crate) fn pause(&self, command: u16) -> Result {
        self.transition(STOP, None, command)
    }

    /// `Pausable::resume`: the device runs, then the vCPUs.
    pub(crate) fn resume(&self, command: u16) -> Result {
        self.transition(RUNNING, None, command)
    }

    /// `Snapshottable::snapshot`: the device is stopped before and after. The read is to the end of the file, into a
    /// buffer of the size that `MIG_DATA_SIZE` said.
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        let command = self.command();
        self.transition(STOP_COPY, Some(STOP), command)?;
        let data = self.device.read_migration_data_to_end();
        let stop = self.transition(STOP, None, command);
        let data = data?;
        stop?;
        Ok(Snapshot { command, data })
    }

    /// `VfioCommon::set_state`: a new device takes a snapshot, one write for all of the data. The command register and
    /// the interrupts come while the device is still RESUMING; `resume` ends that.
    pub(crate) fn restore(&self, snapshot: &Snapshot) -> Result {
        self.transition(RESUMING, Some(STOP), snapshot.command)?;
        if let Err(e) = self.device.write_migration_data(&snapshot.data) {
            self.reset_and_rearm(snapshot.command);
            return Err(e.into());
        }
        self.set_command(snapshot.command);
        self.enable_msix()
    }

    /// `transition_migration_state_with_recovery`: after a failure the device goes to the state `recover`, or is reset.
    fn transition(&self, to: u32, recover: Option<u32>, command: u16) -> Result {
        let Err(error) = self.device.set_migration_state(to) else {
            return Ok(());
        };
        let recovered = recover.is_some_and(|state| self.device.set_migration_state(state).is_ok());
        if !recovered {
            self.reset_and_rearm(command);
        }
        Err(Error::from(error))
    }

    /// `reset_and_rearm`: the device runs, with nothing but its command register and its interrupts.
    fn reset_and_rearm(&self, command: u16) {
        self.device.reset();
        self.set_command(command);
        if let Err(e) = self.enable_msix() {
            eprintln!("rust-vmm: after a reset: {e}");
        }
    }
}
