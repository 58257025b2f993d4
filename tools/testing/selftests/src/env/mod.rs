// SPDX-License-Identifier: GPL-2.0

//! What a test works with: the module, the log, and instances that go when they are dropped.

pub(crate) mod debugfs;
pub(crate) mod meminfo;
pub(crate) mod module;
pub(crate) mod pins;
pub(crate) mod reclaim;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use kernel_utils::Kmsg;
use vfio_client::mdev::{self, Sysfs, Type, Uuid};
use vfio_client::{Container, Device, DmaBuffer, Region};

use crate::env::module::Module;
use crate::harness::limits::Effort;
use crate::harness::problem;
use crate::harness::result::Outcome;

/// The smallest type, which most tests use, and the others.
pub(crate) const SMALL: &str = "mdma-16M";
pub(crate) const MEDIUM: &str = "mdma-256M";
pub(crate) const LARGE: &str = "mdma-1G";

/// How long removing an instance may take that nobody has open.
const LEAVE: Duration = Duration::from_secs(600);

/// What every test is handed.
pub(crate) struct Lab {
    /// The module under test.
    pub(crate) module: Module,
    /// The kernel's log.
    pub(crate) kmsg: Kmsg,
    /// Sysfs.
    pub(crate) sysfs: Sysfs,
    /// How much random and racing tests do.
    pub(crate) effort: Effort,
}

impl Lab {
    /// A type by its name.
    pub(crate) fn mdev_type(&self, name: &str) -> Outcome<Type> {
        Ok(self.sysfs.find_type(name)?)
    }

    /// Makes an instance of this type.
    pub(crate) fn instance(&self, of: &str) -> Outcome<Instance> {
        let uuid = Uuid::random()?;
        Ok(Instance(Some(self.mdev_type(of)?.create(&uuid)?)))
    }

    /// Makes an instance of this type and opens it in a container of its own.
    pub(crate) fn open(&self, of: &str) -> Outcome<Guest> {
        Guest::open(self.instance(of)?)
    }
}

/// An instance that is removed when dropped.
pub(crate) struct Instance(Option<mdev::Instance>);

impl Instance {
    /// Takes over an instance made by other means.
    pub(crate) fn from(instance: mdev::Instance) -> Self {
        Instance(Some(instance))
    }

    /// The instance as sysfs has it, for another to remove.
    pub(crate) fn again(&self) -> mdev::Instance {
        (**self).clone()
    }

    /// Leaves it to others, or gone as it is.
    pub(crate) fn forget(mut self) {
        self.0 = None;
    }

    /// Removes it now and says how that went.
    pub(crate) fn remove(mut self) -> Outcome {
        let instance = self.0.take().expect("taken only here and in drop");
        Ok(instance.remove()?)
    }
}

impl std::ops::Deref for Instance {
    type Target = mdev::Instance;

    fn deref(&self) -> &mdev::Instance {
        self.0.as_ref().expect("taken only when it is consumed")
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let Some(instance) = self.0.take() else {
            return;
        };
        // Removing waits for the user. If that is the test itself, by a forgotten clone, it would wait for ever.
        let (done, removed) = mpsc::channel();
        let uuid = instance.uuid.clone();
        thread::spawn(move || {
            let _ = done.send(instance.remove());
        });
        match removed.recv_timeout(LEAVE) {
            Ok(Ok(())) => {}
            // The test removed it by itself.
            Ok(Err(e)) if e.is(libc::ENOENT) => {}
            Ok(Err(e)) => problem(format!("cannot remove the instance: {e}")),
            Err(_) => problem(format!("removing {uuid} waits: somebody has it open")),
        }
    }
}

/// An opened instance, as a VMM has it.
///
/// What is made from the device has to be dropped before this is.
pub(crate) struct Guest {
    // Dropped in this order.
    /// The device.
    pub(crate) device: Device,
    /// Its container.
    pub(crate) container: Container,
    /// The instance.
    pub(crate) instance: Instance,
}

impl Guest {
    /// Opens an instance in a container of its own.
    pub(crate) fn open(instance: Instance) -> Outcome<Self> {
        let container = Container::open()?;
        let device = instance.open(&container)?;
        Ok(Guest {
            device,
            container,
            instance,
        })
    }

    /// Tries to open an instance that stays with its owner.
    pub(crate) fn open_of(instance: &Instance) -> vfio_client::Result<Device> {
        instance.open_alone()
    }

    /// The UUID, as it is in the log.
    pub(crate) fn uuid(&self) -> &str {
        self.instance.uuid.as_str()
    }

    /// A region.
    pub(crate) fn region(&self, index: u32) -> Outcome<Region> {
        Ok(self.device.region(index)?)
    }

    /// Zeroed memory at an IOVA.
    pub(crate) fn buffer(&self, iova: u64, size: usize) -> Outcome<DmaBuffer> {
        Ok(DmaBuffer::new(&self.container, iova, size)?)
    }

    /// Closes the device and the container; the instance stays.
    pub(crate) fn close(self) -> Instance {
        self.instance
    }
}
