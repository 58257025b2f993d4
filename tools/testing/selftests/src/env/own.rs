// SPDX-License-Identifier: GPL-2.0

//! Which instances the tests have made. They touch no other.

use std::collections::BTreeSet;
use std::sync::Mutex;

use vfio_client::mdev::{Instance, Sysfs, Uuid};

use crate::harness::result::Result;

/// The instances that the tests have made.
static MADE: Mutex<BTreeSet<Uuid>> = Mutex::new(BTreeSet::new());

/// Records that the tests make this instance. Call it before the creation.
pub(crate) fn make(uuid: &Uuid) {
    MADE.lock().unwrap().insert(uuid.clone());
}

/// Returns whether the tests have made this instance.
pub(crate) fn is_made(uuid: &Uuid) -> bool {
    MADE.lock().unwrap().contains(uuid)
}

/// Returns the instances of an mdev parent that the tests have not made.
pub(crate) fn of_others(parent: &str) -> Result<Vec<Instance>> {
    let mut others = Vec::new();
    for instance in Sysfs::default().instances()? {
        if !is_made(&instance.uuid) && instance.parent()? == parent {
            others.push(instance);
        }
    }
    Ok(others)
}
