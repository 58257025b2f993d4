// SPDX-License-Identifier: GPL-2.0

//! The trait that a driver implements.

use crate::{
    attribute::Attribute,
    device::Device,
    device_worker::{
        Wakeup,
        WorkResult, //
    },
    features::Migration,
    stream::{
        Reader,
        Writer, //
    },
};
use kernel::prelude::*;
use migration::stream::Part;
use pci_function as pci;

/// An access to a register that the device does not serve.
///
/// The framework answers as hardware does: the read returns all ones, the write is dropped, and neither
/// fails. A device that can should tell its guest driver why, by a register or an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// What a driver says of itself.
#[derive(Clone, Copy)]
pub struct Info {
    /// Name of the driver: that of `vfio_device_ops` and of the driver on the mdev bus, and so the prefix
    /// of its log lines.
    pub name: &'static CStr,
    /// The type of device that a saved state carries, at most 16 bytes (P49).
    pub device_type: &'static str,
    /// The version of the layout of [`Driver::save`] (P49).
    pub version: u32,
    /// Feature bits that source and destination must share (P49).
    pub features: u32,
    /// The most bytes that [`Driver::save`] writes.
    pub state_size_max: usize,
}

/// A driver of a mediated PCI device.
///
/// One value is the driver's part of one [`Device`], which dereferences to it. It is created with the mdev
/// and dropped when the mdev is gone.
///
/// # Context
///
/// All callbacks may sleep. They are called concurrently and from any thread, except that:
///
/// - [`Driver::work`] never runs concurrently with itself, and never while the device is stopped;
/// - [`Driver::prepare_run`], [`Driver::stopped`], [`Driver::reset`], [`Driver::save`],
///   [`Driver::decode`] and [`Driver::restore`] are called only while no [`Driver::work`] runs or can start;
/// - all callbacks of a migration, from [`Driver::begin_save`] to [`Driver::restore`], exclude each other.
pub trait Driver: Send + Sync + Sized + 'static {
    /// Name, type and version of the device.
    const INFO: Info;

    /// The oldest version of [`Info::version`] whose saved state the device loads; by default only the
    /// present one. [`Driver::decode`] asks [`Reader::version`] which it is.
    ///
    /// All these versions must have the same number of timers, and all or none a host end.
    const OLDEST_VERSION: u32 = Self::INFO.version;

    /// How many timers the device has: see [`Device::timer`]. The framework saves them before the
    /// driver's own state, so another number is another version of the layout.
    const TIMERS: usize = 0;

    /// Whether the device has a host end: see [`Device::host_end`]. The framework saves its input between
    /// the timers and the driver's own state.
    const HOST_END: bool = false;

    /// Parts of the state that are saved by themselves, in ascending order of their numbers; by default none.
    ///
    /// A part lets a state grow without another [`Info::version`]: it is sent only if
    /// [`Driver::save_part`] writes something, and a destination that does not know its number refuses the
    /// stream, or ignores the part if it is [`optional`](Part::optional). A part that is
    /// [`pre_copy`](Part::pre_copy) is sent while the device runs, and again after
    /// [`Device::part_changed`]. A part has at most a page of bytes.
    const PARTS: &'static [Part] = &[];

    /// Attributes of an instance beside those that each instance has; by default none.
    const ATTRIBUTES: &'static [Attribute<Self>] = &[];

    /// What distinguishes one mdev type of this device from another.
    type Config: Send + Sync + 'static;

    /// A saved state that was decoded and checked.
    type State;

    /// Creates the driver's part of a device, in its power-on state.
    ///
    /// An error fails the creation of the mdev with its errno.
    fn new(config: &Self::Config) -> impl PinInit<Self, Error>;

    /// Returns what the device looks like on the PCI bus: IDs, class, BARs and interrupts.
    fn function(config: &Self::Config) -> pci::Function;

    /// Returns how the device migrates.
    fn migration(_config: &Self::Config) -> Migration {
        Migration::default()
    }

    /// Reads a register.
    ///
    /// `data` is 1 to 8 bytes, all inside the BAR, at any `offset`: the device decides which widths and
    /// alignments reach a register. A read that is [`Refused`] returns all ones. It is counted in
    /// `refused` of debugfs and not logged, because a guest can cause any number of them.
    ///
    /// Called under no lock of the framework.
    fn read(dev: &Device<Self>, bar: u32, offset: u64, data: &mut [u8]) -> Result<(), Refused>;

    /// Writes a register. The rules are those of [`Driver::read`]; a write that is [`Refused`] is dropped.
    fn write(dev: &Device<Self>, bar: u32, offset: u64, data: &[u8]) -> Result<(), Refused>;

    /// Does one bounded unit of work.
    ///
    /// Runs after [`Device::schedule`] and when a timer expires, in a worker, only while the device is open,
    /// running and enabled: see [`Function::bus_master`](pci::Function::bus_master). `wakeup` says why it
    /// runs. Keep it short: a stop waits for the unit in progress.
    fn work(_dev: &Device<Self>, _wakeup: Wakeup) -> WorkResult {
        WorkResult::Idle
    }

    /// The device is about to run, after it was stopped, and it is bus master.
    ///
    /// The place to get what the device needs to run, such as pinned guest memory: what a load has restored,
    /// or what [`Driver::stopped`] gave back. An error fails the change of state with its errno; log why with
    /// [`refuse!`](crate::refuse). After a load the device is in the error state then, or, if the load was a
    /// change of its own, still stopped.
    ///
    /// Not called when the device is opened or reset, because its user has mapped no memory then.
    fn prepare_run(_dev: &Device<Self>) -> Result {
        Ok(())
    }

    /// The device is about to stop for a change of state. It still works.
    ///
    /// The place for what may take long or fail, such as letting an operation end that cannot be saved.
    /// Everything that it waits for must end when the calling task is killed. An error fails the change of
    /// state with its errno, and the device runs on; log why with [`refuse!`](crate::refuse). Not called for
    /// a reset or a close, which nothing may refuse.
    fn prepare_stop(_dev: &Device<Self>) -> Result {
        Ok(())
    }

    /// The device was stopped. Called after the last unit of work and before the stop returns.
    ///
    /// The place to give back what is held only while running, such as pinned guest memory.
    fn stopped(_dev: &Device<Self>) {}

    /// Puts the device back to power-on, as [`Driver::new`] made it, with no vector asserted
    /// ([`Irq::set_asserted`](crate::irq::Irq::set_asserted)).
    ///
    /// The framework switches the timers off, and discards device memory, but storage only at the last
    /// close. It resets the device for `VFIO_DEVICE_RESET` and at the last close, so that the next user
    /// finds nothing of this one. Root can keep the state over the close by the attribute `keep_state` of
    /// the mdev.
    fn reset(dev: &Device<Self>);

    /// A save begins: a session of v1 or v2 opens. The device may run.
    ///
    /// An error fails the change of state with its errno.
    fn begin_save(_dev: &Device<Self>) -> Result {
        Ok(())
    }

    /// The save has ended, with or without success. Called once for each [`Driver::begin_save`] that
    /// succeeded, at the latest at the last close.
    fn end_save(_dev: &Device<Self>) {}

    /// A load begins. The device is stopped.
    ///
    /// An error fails the change of state with its errno.
    fn begin_load(_dev: &Device<Self>) -> Result {
        Ok(())
    }

    /// The load has ended: after [`Driver::restore`], or without success. Called once for each
    /// [`Driver::begin_load`] that succeeded.
    fn end_load(_dev: &Device<Self>) {}

    /// Returns an estimate of the bytes that [`Driver::save`] would write now, which users see as a part of what
    /// is pending. By default the most that it writes. A driver whose state is often much smaller should know
    /// better: a VMM computes the downtime from it.
    ///
    /// Called while the device runs, and often. Must not wait for [`Driver::work`].
    fn state_size(_dev: &Device<Self>) -> usize {
        Self::INFO.state_size_max
    }

    /// Returns an estimate of the bytes that [`Driver::save_part`] would write now, which users see as a part
    /// of what is pending. By default the most that it has.
    fn part_bytes(_dev: &Device<Self>, part: &Part) -> usize {
        part.size_max as usize
    }

    /// Saves one of [`Driver::PARTS`]. A part that writes nothing is not sent; a part of pre-copy always
    /// writes something.
    ///
    /// A part of pre-copy is saved while the device runs, concurrently with [`Driver::work`]. Errors are
    /// those of [`Driver::save`].
    fn save_part(_dev: &Device<Self>, _part: &Part, _out: &mut Writer<'_>) -> Result {
        Ok(())
    }

    /// Saves the state: registers, queues, interrupt causes. Not device memory.
    ///
    /// An error fails the migration with its errno; log why with [`refuse!`](crate::refuse). The
    /// framework logs an error of `out`.
    fn save(dev: &Device<Self>, out: &mut Writer<'_>) -> Result;

    /// Decodes a saved state and checks every field. Changes nothing.
    ///
    /// The bytes come from a stream, which may be hostile. An error fails the load with its errno; log
    /// why with [`refuse!`](crate::refuse). The framework logs an error of `input`, and refuses bytes
    /// after the last field. [`Reader::part`] decodes the parts.
    fn decode(dev: &Device<Self>, input: &mut Reader<'_>) -> Result<Self::State>;

    /// Takes over a state that [`Driver::decode`] returned.
    ///
    /// End it with a call of [`Irq::set_asserted`](crate::irq::Irq::set_asserted) for the causes in the
    /// state: the framework delivers the interrupts of these vectors when the device begins to run. It
    /// also sets the timers to the saved times, and schedules work.
    fn restore(dev: &Device<Self>, state: Self::State);
}
