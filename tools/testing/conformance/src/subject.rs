// SPDX-License-Identifier: GPL-2.0

//! The device that is checked.

use std::path::Path;

use vfio_client::v2::{DataFd, Migration, State};
use vfio_client::{errno, Container, Device, Error, Group, Result};

use crate::fault::Fault;

/// A device that can be opened through its group.
#[derive(Clone, Debug)]
pub struct Subject {
    name: String,
    group: u32,
}

impl Subject {
    /// Finds a device by its name on the mdev, PCI or platform bus.
    pub fn find(name: &str) -> Result<Self> {
        for bus in ["mdev", "pci", "platform"] {
            let link = Path::new("/sys/bus").join(bus).join("devices").join(name);
            let Ok(target) = std::fs::read_link(link.join("iommu_group")) else {
                continue;
            };
            let number = target.file_name().and_then(|n| n.to_str());
            if let Some(group) = number.and_then(|n| n.parse().ok()) {
                let name = name.to_string();
                return Ok(Subject { name, group });
            }
        }
        Err(Error::not_found(
            format!("device {name}"),
            "no device of this name has an IOMMU group",
        ))
    }

    /// Opens it in a new container.
    pub(crate) fn open(&self) -> Result<Device> {
        Group::open(self.group, &Container::open()?)?.device(&self.name)
    }

    /// Opens it, resets it, and finds its migration feature.
    pub(crate) fn open_v2(&self) -> std::result::Result<(Device, Migration), Fault> {
        let device = self.open()?;
        let migration = migration(&device)?;
        restart(&device, &migration)?;
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
