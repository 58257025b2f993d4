// SPDX-License-Identifier: GPL-2.0

//! What a driver author writes.

use crate::{
    engine::{
        Runnable,
        Step, //
    },
    handle::Handle,
    pci,
    stream::{
        Reader,
        Writer, //
    },
};
use kernel::prelude::*;

/// An access to a register that the device does not serve.
///
/// It is what hardware does with it: the read returns all ones, the write is dropped, and neither
/// fails. A device that can should tell its driver why, by a register or an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// A mediated PCI device.
///
/// One value is one instance. It is made when the mdev is created and dropped when the mdev is
/// gone. [`Device::reset`] brings back the state [`Device::new`] made. The framework calls it when the
/// last user closes the device, so that nothing of one user is left to the next. Root may ask for the
/// opposite by the attribute `keep_state` of the mdev.
///
/// Methods are called concurrently and on any thread, except that [`Device::step`] never runs
/// concurrently with itself, and never while the device is stopped. [`Device::stopped`],
/// [`Device::reset`] and the three state methods are called only while no step runs or can start.
pub trait Device: Send + Sync + Sized + 'static {
    /// Name of the driver: `vfio_device_ops.name` and the prefix of its log lines.
    const NAME: &'static CStr;

    /// The device type a saved state carries, at most 16 bytes (P49).
    const DEVICE_TYPE: &'static str;

    /// The version of the layout of [`Device::save_state`] (P49).
    const DEVICE_VERSION: u32;

    /// Feature bits that source and destination must share (P49).
    const FEATURES: u32;

    /// The most bytes [`Device::save_state`] writes.
    const STATE_SIZE_MAX: usize;

    /// What distinguishes one mdev type of this device from another.
    type Config: Send + Sync + 'static;

    /// Makes a device in its power-on state.
    fn new(config: &Self::Config, handle: Handle) -> impl PinInit<Self, Error>;

    /// How the device looks on the PCI bus.
    fn pci(config: &Self::Config) -> pci::Layout;

    /// Bytes of device memory, a whole number of pages; 0 for a device without.
    ///
    /// The framework allocates it, lets guests map it and migrates it.
    fn memory_size(_config: &Self::Config) -> u64 {
        0
    }

    /// Reads a register.
    ///
    /// `data` is 1 to 8 bytes, all inside the BAR, at any `offset`: which widths and alignments reach
    /// a register is the device's decision. What the device refuses reads all ones, is counted in
    /// `refused` of debugfs and not logged, because a guest can do it at will.
    fn read(&self, bar: u32, offset: u64, data: &mut [u8]) -> Result<(), Refused>;

    /// Writes a register. The rules are those of [`Device::read`]; what is refused is dropped.
    fn write(&self, bar: u32, offset: u64, data: &[u8]) -> Result<(), Refused>;

    /// Does one bounded unit of work.
    ///
    /// Runs in a worker that may sleep, only while the device is open, running and bus master.
    /// A unit must be short: whoever stops the device waits for the one in flight.
    fn step(&self) -> Step;

    /// The device was stopped; called after the last step and before whoever stopped it is told.
    ///
    /// The place to give back what is held only while running, such as pinned guest memory.
    fn stopped(&self) {}

    /// Back to power-on, with nothing asserted ([`Irq::set_asserted`](crate::irq::Irq::set_asserted)).
    /// Device memory is discarded by the framework.
    fn reset(&self);

    /// Writes down the state: registers, queues, interrupt causes. Not device memory.
    ///
    /// For this and the next two: an error fails the migration with its errno, and the driver logs
    /// why with [`refuse!`](crate::refuse).
    fn save_state(&self, out: &mut Writer<'_>) -> Result;

    /// Checks every field of a saved state and changes nothing.
    fn check_state(&self, state: &mut Reader<'_>) -> Result;

    /// Takes over a state that [`Device::check_state`] accepted.
    ///
    /// Ends with a call of [`Irq::set_asserted`](crate::irq::Irq::set_asserted) for the causes in it: the
    /// interrupts of vectors that are asserted then are delivered when the device begins to run.
    fn load_state(&self, state: &mut Reader<'_>) -> Result;
}

/// [`Device`] without its type, as regions and migration use it. The engine uses [`Runnable`].
pub(crate) trait Operations: Send + Sync {
    /// See [`Device::read`].
    fn read(&self, bar: u32, offset: u64, data: &mut [u8]) -> Result<(), Refused>;
    /// See [`Device::write`].
    fn write(&self, bar: u32, offset: u64, data: &[u8]) -> Result<(), Refused>;
    /// See [`Device::reset`].
    fn reset(&self);
    /// See [`Device::save_state`].
    fn save_state(&self, out: &mut Writer<'_>) -> Result;
    /// See [`Device::check_state`].
    fn check_state(&self, state: &mut Reader<'_>) -> Result;
    /// See [`Device::load_state`].
    fn load_state(&self, state: &mut Reader<'_>) -> Result;
}

impl<D: Device> Operations for D {
    fn read(&self, bar: u32, offset: u64, data: &mut [u8]) -> Result<(), Refused> {
        Device::read(self, bar, offset, data)
    }

    fn write(&self, bar: u32, offset: u64, data: &[u8]) -> Result<(), Refused> {
        Device::write(self, bar, offset, data)
    }

    fn reset(&self) {
        Device::reset(self)
    }

    fn save_state(&self, out: &mut Writer<'_>) -> Result {
        Device::save_state(self, out)
    }

    fn check_state(&self, state: &mut Reader<'_>) -> Result {
        Device::check_state(self, state)
    }

    fn load_state(&self, state: &mut Reader<'_>) -> Result {
        Device::load_state(self, state)
    }
}

impl<D: Device> Runnable for D {
    fn step(&self) -> Step {
        Device::step(self)
    }

    fn stopped(&self) {
        Device::stopped(self)
    }
}
