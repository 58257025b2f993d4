// SPDX-License-Identifier: GPL-2.0

//! The device: one object for VFIO, the framework and the driver.

use crate::{
    budget::Reservation,
    counters::Counters,
    device_worker::DeviceWorker,
    faults::Faults,
    features::Migration,
    host_end::HostEnd,
    memory::DeviceMemory,
    migration::{
        DataSection,
        StateMachine, //
    },
};
use ::migration::stream::Changes;
use core::{
    ops::Deref,
    ptr, //
};
use kernel::{
    device,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    }, //
};
use pci_function::{
    config::ConfigSpace,
    msix::Msix,
    Function, //
};
use vfio::{
    dma::Dma,
    irq::Irq,
    log::Log, //
};

/// The device as VFIO has it.
pub(crate) type VfioDevice<T> = vfio::Device<Device<T>>;

/// A mediated device.
///
/// It ends with the driver's part, a `T`, to which it dereferences. It is the data of a
/// [`vfio::Device`]: one object that starts with the `struct vfio_device`. VFIO allocates it, counts
/// references to it and frees it.
#[pin_data(PinnedDrop)]
pub struct Device<T> {
    /// Runs [`Driver::work`](crate::Driver::work).
    #[pin]
    pub(crate) worker: DeviceWorker<Device<T>>,
    /// The mdev.
    pub(crate) mdev: ARef<device::Device>,
    /// The log of refusals.
    #[pin]
    pub(crate) log: Log,
    /// Counts what is not logged.
    pub(crate) counters: Arc<Counters>,
    /// The points at which it can be made to fail.
    pub(crate) faults: Faults,
    /// What the device looks like on the PCI bus.
    pub(crate) function: Function,
    /// How the device migrates.
    pub(crate) migration: Migration,
    /// The emulated configuration space.
    #[pin]
    pub(crate) config: ConfigSpace,
    /// Interrupts.
    #[pin]
    pub(crate) irq: Irq,
    /// The BAR with the MSI-X table.
    #[pin]
    pub(crate) msix: Msix,
    /// Guest memory.
    #[pin]
    pub(crate) dma: Dma,
    /// Device memory, if the device has any.
    pub(crate) memory: Option<Arc<DeviceMemory>>,
    /// The host end.
    pub(crate) host_end: Arc<HostEnd>,
    /// The migration state.
    #[pin]
    pub(crate) machine: StateMachine,
    /// The data section of the v1 region.
    pub(crate) data_section: DataSection,
    /// The driver's part.
    #[pin]
    pub(crate) driver: T,
    /// The device's share of the parent's memory. Given back after all else is gone.
    pub(crate) reservation: Reservation,
}

impl<T> Device<T> {
    /// Runs [`Driver::work`](crate::Driver::work) soon.
    ///
    /// Cheap, and callable in any context. While the device may not run the call is remembered
    /// and acts when it may (P52).
    pub fn schedule(&self) {
        self.worker.schedule();
    }

    /// Says that the part with this number has changed, so that a save in progress sends it again before the
    /// device stops. It must be a part of pre-copy. Cheap, and callable in any context that may take a
    /// spinlock.
    pub fn part_changed(&self, number: u32) {
        let parts = self.machine.parts_bit(number);
        self.machine.change_parts(Changes {
            parts,
            reinit: false,
        });
    }

    /// Says that all that pre-copy has sent besides device memory is obsolete: its parts are sent again, as
    /// the initial bytes of v2, and a user who has asked for it sees `VFIO_PRECOPY_INFO_REINIT`. For example
    /// because the guest has configured the device again. The context is that of [`Device::part_changed`].
    pub fn restart_pre_copy(&self) {
        self.machine.change_parts(Changes {
            parts: 0,
            reinit: true,
        });
    }

    /// Returns guest memory, which is accessed by IOVA.
    pub fn dma(&self) -> &Dma {
        &self.dma
    }

    /// Returns device memory; `None` if the device has neither a [`Bar::Memory`](crate::pci::Bar::Memory)
    /// nor storage.
    pub fn memory(&self) -> Option<&DeviceMemory> {
        self.memory.as_deref()
    }

    /// Returns the host end, which carries nothing unless [`Driver::HOST_END`](crate::Driver::HOST_END)
    /// says that the device has one.
    pub fn host_end(&self) -> &HostEnd {
        &self.host_end
    }

    /// Returns the interrupts.
    pub fn irq(&self) -> &Irq {
        &self.irq
    }

    /// Returns the name of the mdev, which is its UUID.
    pub fn uuid(&self) -> &CStr {
        self.mdev.name()
    }

    /// Puts the device into the error state, in which it neither works nor interrupts: `ERROR` of v2, and of v1
    /// the value that its users take for an error. A reset ends it, and so does the last close.
    ///
    /// For an error that the device cannot show to its guest, for example a state that cannot be. Logs
    /// `reason`. Can be called by every callback that may sleep. The unit of work in progress goes on; no
    /// other begins. A migration in progress fails, because its next access finds no session.
    pub fn fail(&self, reason: core::fmt::Arguments<'_>) {
        self.log
            .refuse(&self.mdev, format_args!("the device fails: {reason}"));
        self.worker.fail();
        self.irq.stop();
        self.machine.notify();
    }

    /// Logs why something was refused: one line, rate-limited for each device.
    ///
    /// Use it through [`refuse!`](crate::refuse).
    pub fn refuse(&self, reason: core::fmt::Arguments<'_>) {
        self.log.refuse(&self.mdev, reason);
    }
}

impl<T> Deref for Device<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.driver
    }
}

#[pinned_drop]
impl<T> PinnedDrop for Device<T> {
    fn drop(self: Pin<&mut Self>) {
        // The worker refers to the device.
        self.worker.stop();
        if let Some(memory) = &self.memory {
            // SAFETY: Taking the mapping away is always allowed.
            unsafe { memory.set_mapping(ptr::null_mut()) };
        }
    }
}
