// SPDX-License-Identifier: GPL-2.0

//! The environment of a test: the module, the kernel log, sysfs, and instances that are removed when dropped.

pub(crate) mod debugfs;
pub(crate) mod facts;
pub(crate) mod meminfo;
pub(crate) mod module;
pub(crate) mod own;
pub(crate) mod pci_device;
pub(crate) mod pins;
pub(crate) mod reclaim;
pub(crate) mod sample;
pub(crate) mod scripts;
pub(crate) mod types;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use kernel_utils::Kmsg;
use vfio_client::mdev::{self, Sysfs, Type, Uuid};
use vfio_client::{Container, Device, DmaBuffer, Region};

use crate::env::module::Module;
use crate::env::own::{is_made, make};
pub(crate) use crate::env::types::{LARGE, MEDIUM, SMALL};
use crate::harness::limits::Limits;
use crate::harness::report::problem;
use crate::harness::result::Result;

/// How long removing an unused instance may take.
const LEAVE: Duration = Duration::from_secs(600);

/// The argument of all tests.
pub(crate) struct Env {
    /// The module under test.
    pub(crate) module: Module,
    /// The kernel log.
    pub(crate) kmsg: Kmsg,
    /// Sysfs.
    pub(crate) sysfs: Sysfs,
    /// How long random and racing tests run.
    pub(crate) limits: Limits,
}

impl Env {
    /// Returns the type with this name.
    pub(crate) fn mdev_type(&self, name: &str) -> Result<Type> {
        Ok(self.sysfs.find_type(name)?)
    }

    /// Creates an instance of this type.
    pub(crate) fn instance(&self, of: &str) -> Result<Instance> {
        let uuid = Uuid::random()?;
        make(&uuid);
        Ok(Instance(Some(self.mdev_type(of)?.create(&uuid)?)))
    }

    /// Returns the instances that the tests have made and not removed.
    pub(crate) fn own_instances(&self) -> Result<Vec<mdev::Instance>> {
        let all = self.sysfs.instances()?.into_iter();
        Ok(all.filter(|instance| is_made(&instance.uuid)).collect())
    }

    /// Returns the mdev type under test.
    pub(crate) fn subject(&self) -> &str {
        &self.limits.mdev_type
    }

    /// Creates an instance of the type under test and opens it in a new container.
    pub(crate) fn open_subject(&self) -> Result<Guest> {
        self.open(self.subject())
    }

    /// Creates an instance of this type and opens it in a new container.
    pub(crate) fn open(&self, of: &str) -> Result<Guest> {
        Guest::open(self.instance(of)?)
    }
}

/// An instance that is removed when dropped.
pub(crate) struct Instance(Option<mdev::Instance>);

impl Instance {
    /// Wraps an instance that the tests have made by other means.
    pub(crate) fn from(instance: mdev::Instance) -> Self {
        Instance(Some(instance))
    }

    /// Returns a handle through which other code can remove the instance.
    pub(crate) fn again(&self) -> mdev::Instance {
        (**self).clone()
    }

    /// Drops this without removing the instance.
    pub(crate) fn forget(mut self) {
        self.0 = None;
    }

    /// Removes the instance and returns the result.
    pub(crate) fn remove(mut self) -> Result {
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
        // Removal waits for the user. If the test still holds a clone of the device, removal never returns.
        let (done, removed) = mpsc::channel();
        let uuid = instance.uuid.clone();
        thread::spawn(move || {
            let _ = done.send(instance.remove());
        });
        match removed.recv_timeout(LEAVE) {
            Ok(Ok(())) => {}
            // The test has already removed it.
            Ok(Err(e)) if e.is(libc::ENOENT) => {}
            Ok(Err(e)) => problem(format!("cannot remove the instance: {e}")),
            Err(_) => problem(format!(
                "removal of {uuid} still waits after {} s: the device is open",
                LEAVE.as_secs()
            )),
        }
    }
}

/// An open instance, as a VMM has it.
///
/// Drop everything made from the device before this.
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
    /// Opens an instance in a new container.
    pub(crate) fn open(instance: Instance) -> Result<Self> {
        let container = Container::open()?;
        let device = instance.open(&container)?;
        Ok(Guest {
            device,
            container,
            instance,
        })
    }

    /// Opens an existing instance by its UUID, in a child process.
    pub(crate) fn of_uuid(uuid: &str) -> Result<Self> {
        let instance = Sysfs::default().instance(&Uuid::parse(uuid)?)?;
        let container = Container::open()?;
        // The child must not remove the instance if it cannot open it.
        Ok(Guest {
            device: instance.open(&container)?,
            container,
            instance: Instance::from(instance),
        })
    }

    /// Opens an instance without taking ownership of it.
    pub(crate) fn open_of(instance: &Instance) -> vfio_client::Result<Device> {
        instance.open_alone()
    }

    /// Returns the UUID as the log prints it.
    pub(crate) fn uuid(&self) -> &str {
        self.instance.uuid.as_str()
    }

    /// Returns a region.
    pub(crate) fn region(&self, index: u32) -> Result<Region> {
        Ok(self.device.region(index)?)
    }

    /// Maps zeroed memory at an IOVA.
    pub(crate) fn buffer(&self, iova: u64, size: usize) -> Result<DmaBuffer> {
        Ok(DmaBuffer::new(&self.container, iova, size)?)
    }

    /// Closes the device and the container; the instance stays.
    pub(crate) fn close(self) -> Instance {
        self.instance
    }
}
