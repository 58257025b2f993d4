// SPDX-License-Identifier: GPL-2.0

//! The list of mediated devices, and which of them can migrate.

use serde::Serialize;
use vfio_client::errno;
use vfio_client::mdev::{Instance, Sysfs};
use vfio_client::{Container, Error};

use crate::error::Result;

/// Result of opening a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "status")]
pub enum Status {
    /// It was opened and queried.
    Idle {
        /// It has the v1 region.
        v1: bool,
        /// It has the v2 feature.
        v2: bool,
        /// It has the region of v7.
        v7: bool,
        /// It has the region of 2018.
        #[serde(rename = "2018")]
        v2018: bool,
        /// The name of its state.
        state: Option<String>,
    },
    /// It is in use, so nothing else is known.
    Busy,
    /// It could not be opened.
    Unknown {
        /// The reason.
        error: String,
    },
}

/// A mediated device.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Its name.
    pub uuid: String,
    /// Its type.
    #[serde(rename = "type")]
    pub type_id: String,
    /// Its parent.
    pub parent: String,
    /// Its IOMMU group.
    pub group: Option<u32>,
    /// Result of opening it.
    #[serde(flatten)]
    pub status: Status,
}

impl Status {
    /// Names the protocols, or the reason why they are unknown.
    pub fn migration(&self) -> String {
        match self {
            Status::Idle {
                v1, v2, v7, v2018, ..
            } => {
                let all = [("v1", v1), ("v2", v2), ("v7", v7), ("2018", v2018)];
                let found = all.into_iter().filter(|(_, has)| **has);
                let names: Vec<_> = found.map(|(name, _)| name).collect();
                match names.is_empty() {
                    true => "no".into(),
                    false => names.join(", "),
                }
            }
            Status::Busy | Status::Unknown { .. } => "?".into(),
        }
    }

    /// Names the state.
    pub fn state(&self) -> String {
        match self {
            Status::Idle { state, .. } => state.clone().unwrap_or_else(|| "-".into()),
            Status::Busy => "in use".into(),
            Status::Unknown { error } => error.clone(),
        }
    }
}

/// Lists all mediated devices. Opens each idle device briefly to query it.
pub fn list(sysfs: &Sysfs) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for instance in sysfs.instances()? {
        entries.push(Entry {
            uuid: instance.uuid.to_string(),
            type_id: instance.type_id().unwrap_or_else(|_| "?".into()),
            parent: instance.parent().unwrap_or_else(|_| "?".into()),
            group: instance.iommu_group().ok(),
            status: status(&instance),
        });
    }
    Ok(entries)
}

fn status(instance: &Instance) -> Status {
    match ask(instance) {
        Ok(status) => status,
        Err(e) if e.is(errno::EBUSY) => Status::Busy,
        Err(e) => Status::Unknown {
            error: e.to_string(),
        },
    }
}

fn ask(instance: &Instance) -> std::result::Result<Status, Error> {
    let device = instance.open(&Container::open()?)?;
    let v1 = device.migration_v1()?;
    let v2 = device.migration_v2()?;
    let v7 = device.migration_v7()?;
    let v2018 = device.migration_2018()?;
    let state = match (&v1, &v2, &v7, &v2018) {
        (Some(migration), ..) => Some(migration.state()?.to_string()),
        (_, Some(migration), ..) => Some(migration.state()?.to_string()),
        (_, _, Some(migration), _) => Some(migration.state()?.to_string()),
        (.., Some(migration)) => Some(migration.state()?.to_string()),
        _ => None,
    };
    Ok(Status::Idle {
        v1: v1.is_some(),
        v2: v2.is_some(),
        v7: v7.is_some(),
        v2018: v2018.is_some(),
        state,
    })
}
