// SPDX-License-Identifier: GPL-2.0

//! The device that is checked.

use std::path::{Path, PathBuf};

use vfio_client::v1;
use vfio_client::v2::{DataFd, Migration, State};
use vfio_client::{errno, Container, Device, Error, Group, Result};

use crate::fault::Fault;

/// A device that can be opened through its group, or through a file of its own.
#[derive(Clone, Debug)]
pub struct Subject {
    name: String,
    group: u32,
    /// Its own file.
    cdev: Option<PathBuf>,
}

/// The buses of devices that VFIO has.
const BUSES: [&str; 3] = ["mdev", "pci", "platform"];

impl Subject {
    /// Finds a device by its name on the mdev, PCI or platform bus.
    pub fn find(name: &str) -> Result<Self> {
        for bus in BUSES {
            let link = Path::new("/sys/bus").join(bus).join("devices").join(name);
            let Ok(target) = std::fs::read_link(link.join("iommu_group")) else {
                continue;
            };
            let number = target.file_name().and_then(|n| n.to_str());
            if let Some(group) = number.and_then(|n| n.parse().ok()) {
                let name = name.to_string();
                let cdev = None;
                return Ok(Subject { name, group, cdev });
            }
        }
        Err(Error::not_found(
            format!("device {name}"),
            "no device of this name has an IOMMU group",
        ))
    }

    /// Opens it through its own file from now on.
    ///
    /// # Errors
    ///
    /// If it has none.
    pub fn through_cdev(mut self) -> Result<Self> {
        let path = self.cdev();
        let none =
            |fault: Fault| Error::not_found(format!("device {}", self.name), fault.to_string());
        self.cdev = Some(path.map_err(none)?);
        Ok(self)
    }

    /// Returns its own file, which the kernel has with `CONFIG_VFIO_DEVICE_CDEV`.
    pub(crate) fn cdev(&self) -> std::result::Result<PathBuf, Fault> {
        let found = BUSES.iter().find_map(|bus| {
            let device = Path::new("/sys/bus").join(bus).join("devices");
            let files = std::fs::read_dir(device.join(&self.name).join("vfio-dev")).ok()?;
            let path = Path::new("/dev/vfio/devices").join(files.flatten().next()?.file_name());
            path.exists().then_some(path)
        });
        let kernel = "file in /dev/vfio/devices (CONFIG_VFIO_DEVICE_CDEV)";
        found.ok_or_else(|| Fault::Absent(kernel.into()))
    }

    /// Returns its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Opens it in a new container, or with a new iommufd.
    pub(crate) fn open(&self) -> Result<Device> {
        if let Some(path) = &self.cdev {
            return Device::open_cdev(path, &self.name);
        }
        Group::open(self.group, &Container::open()?)?.device(&self.name)
    }

    /// Opens it, resets it, and finds its migration feature.
    pub(crate) fn open_v2(&self) -> std::result::Result<(Device, Migration), Fault> {
        let device = self.open()?;
        let migration = migration(&device)?;
        restart(&device, &migration)?;
        Ok((device, migration))
    }

    /// Opens it, resets it, and finds its migration region of protocol v1.
    pub(crate) fn open_v1(&self) -> std::result::Result<(Device, v1::Migration), Fault> {
        let device = self.open()?;
        let absent = || Fault::Absent("migration by protocol v1".into());
        let migration = device.migration_v1()?.ok_or_else(absent)?;
        device.reset()?;
        Ok((device, migration))
    }
}

/// Finds the migration feature of a device.
pub(crate) fn migration(device: &Device) -> std::result::Result<Migration, Fault> {
    let absent = || Fault::Absent("migration by protocol v2".into());
    device.migration_v2()?.ok_or_else(absent)
}

/// Resets the device, whether or not it announces that. A device that cannot be reset is asked for RUNNING.
pub(crate) fn restart(device: &Device, migration: &Migration) -> Result<()> {
    match device.reset() {
        Err(e) if e.is(errno::ENOTTY) || e.is(errno::EINVAL) => {
            migration.set_state(State::RUNNING).map(drop)
        }
        result => result,
    }
}

/// Returns the states that the device supports, without ERROR.
pub(crate) fn supported(migration: &Migration) -> Vec<State> {
    let mut states = vec![
        State::STOP,
        State::RUNNING,
        State::STOP_COPY,
        State::RESUMING,
    ];
    if migration.has_p2p() {
        states.push(State::RUNNING_P2P);
    }
    if migration.has_pre_copy() {
        states.push(State::PRE_COPY);
    }
    if migration.has_p2p() && migration.has_pre_copy() {
        states.push(State::PRE_COPY_P2P);
    }
    states
}

/// Changes the state and returns the data descriptor, which this transition has to make.
pub(crate) fn data_fd(migration: &Migration, state: State) -> std::result::Result<DataFd, Fault> {
    migration.set_state(state)?.ok_or_else(|| Fault::Failed {
        expected: format!("a data_fd from the transition to {state}"),
        seen: "data_fd -1".into(),
    })
}

/// Saves the device in STOP_COPY and leaves it in STOP.
pub(crate) fn save(migration: &Migration) -> std::result::Result<Vec<u8>, Fault> {
    let file = data_fd(migration, State::STOP_COPY)?;
    let mut stream = Vec::new();
    file.read_available(&mut stream)?;
    migration.set_state(State::STOP)?;
    Ok(stream)
}
