// SPDX-License-Identifier: GPL-2.0

//! What the parts of one instance share, and the driver's way to it.

use crate::{
    config::{
        self,
        ConfigSpace, //
    },
    debugfs::Counters,
    dma::{
        Dma,
        Unmaps, //
    },
    engine::Engine,
    irq::Irq,
    log::Log,
    memory::DeviceMemory,
    msix::Msix,
    pci,
    uuid::Uuid, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// What belongs to an instance whatever its driver.
///
/// It has no reference to the driver's [`Device`](crate::Device) that outlives the instance, so a
/// driver may hold a [`Handle`] for as long as it likes: once the instance is gone every operation
/// fails or does nothing.
#[pin_data]
pub(crate) struct Core {
    /// [`Device::NAME`](crate::Device::NAME).
    pub(crate) name: &'static CStr,
    /// The instance's UUID.
    pub(crate) uuid: Uuid,
    /// The log of refusals.
    #[pin]
    log: Log,
    /// What is counted and not logged.
    pub(crate) counters: Arc<Counters>,
    /// How the device looks on the PCI bus.
    pub(crate) layout: pci::Layout,
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
    /// The worker.
    pub(crate) engine: Arc<Engine>,
}

impl Core {
    /// Makes the shared parts of an instance that is not open.
    pub(crate) fn new(
        name: &'static CStr,
        uuid: Uuid,
        layout: pci::Layout,
        memory_size: u64,
        unmaps: Arc<Unmaps>,
    ) -> Result<Arc<Self>> {
        let memory = match memory_size {
            0 => None,
            size => Some(DeviceMemory::new(size)?),
        };
        let engine = Engine::new(name)?;
        let counters = Arc::new(Counters::default(), GFP_KERNEL)?;
        let msix = Msix::new(&layout)?;
        let table = KBox::new(config::Table::new(&layout, memory_size), GFP_KERNEL)?;

        Arc::pin_init(
            try_pin_init!(Self {
                name,
                uuid,
                log <- Log::new(),
                counters,
                config <- ConfigSpace::new(table),
                irq <- Irq::new(&layout),
                msix <- msix,
                layout,
                dma <- Dma::new(unmaps),
                memory,
                engine,
            }),
            GFP_KERNEL,
        )
    }

    /// Logs why something was refused: one line, rate-limited for each device.
    ///
    /// Use it through [`refuse!`](crate::refuse).
    pub(crate) fn refuse(&self, reason: core::fmt::Arguments<'_>) {
        self.log.refuse(self.name, &self.uuid, reason);
    }
}

/// The driver's way to the framework's parts of its instance.
#[derive(Clone)]
pub struct Handle(Arc<Core>);

impl Handle {
    /// A handle to `core`.
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self(core)
    }

    /// Has [`Device::step`](crate::Device::step) run soon.
    ///
    /// Cheap, and callable in any context. While the device may not run the call is remembered
    /// and acts when it may (P52).
    pub fn kick(&self) {
        self.0.engine.kick();
    }

    /// Guest memory, by IOVA.
    pub fn dma(&self) -> &Dma {
        &self.0.dma
    }

    /// Device memory; `None` if [`Device::memory_size`](crate::Device::memory_size) is 0.
    pub fn memory(&self) -> Option<&DeviceMemory> {
        self.0.memory.as_deref()
    }

    /// Interrupts.
    pub fn irq(&self) -> &Irq {
        &self.0.irq
    }

    /// Logs why something was refused. Use it through [`refuse!`](crate::refuse).
    pub fn refuse(&self, reason: core::fmt::Arguments<'_>) {
        self.0.refuse(reason);
    }
}
