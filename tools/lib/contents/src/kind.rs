// SPDX-License-Identifier: GPL-2.0

//! The mdev types of a device.

use vfio_client::mdev::{Parent, Sysfs, Type};
use vfio_client::{Error, Result};
use vfio_migrate::format::parse_bytes;

/// Returns the type of a device with this name, with or without the device's in front: `mnvme-64M` or `64M`.
///
/// # Errors
///
/// The device has no such type.
pub fn find_type(sysfs: &Sysfs, device: &str, name: &str) -> Result<Type> {
    let parent = sysfs.parent(device)?;
    let types = parent.types()?;
    let found = types
        .iter()
        .find(|kind| kind.id == name || suffix(&parent, kind) == name);
    found.cloned().ok_or_else(|| {
        let known: Vec<_> = types.iter().map(|kind| kind.id.as_str()).collect();
        Error::not_found(
            format!("mdev type {name}"),
            format!("{device} has no such type; it has {}", known.join(", ")),
        )
    })
}

/// Returns the type of a device that is smallest by its name: `64M` is smaller than `1G`.
///
/// # Errors
///
/// The device has no types.
pub fn smallest_type(sysfs: &Sysfs, device: &str) -> Result<Type> {
    let smallest = types_by_size(sysfs, device)?.into_iter().next();
    smallest.ok_or_else(|| Error::not_found(format!("mdev parent {device}"), "it has no types"))
}

/// Returns the types of a device, the smallest by its name first.
///
/// # Errors
///
/// There is no such device.
pub fn types_by_size(sysfs: &Sysfs, device: &str) -> Result<Vec<Type>> {
    let parent = sysfs.parent(device)?;
    let mut types = parent.types()?;
    types.sort_by_key(|kind| parse_bytes(suffix(&parent, kind)).unwrap_or(u64::MAX));
    Ok(types)
}

/// Returns the size in the name of a type of a device; `None` if it has none.
pub fn size_of_type(sysfs: &Sysfs, device: &str, kind: &Type) -> Option<u64> {
    let parent = sysfs.parent(device).ok()?;
    parse_bytes(suffix(&parent, kind)).ok()
}

/// Returns the name of a type without the parent's in front.
fn suffix<'a>(parent: &Parent, kind: &'a Type) -> &'a str {
    let rest = kind.id.strip_prefix(parent.name.as_str());
    rest.and_then(|rest| rest.strip_prefix('-'))
        .unwrap_or(&kind.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn sysfs(types: &[&str]) -> (tempfile::TempDir, Sysfs) {
        let dir = tempfile::tempdir().unwrap();
        for (parent, name) in types.iter().map(|id| (id.split('-').next().unwrap(), id)) {
            let path = format!("class/mdev_bus/{parent}/mdev_supported_types/{name}");
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        let sysfs = Sysfs::at(dir.path());
        (dir, sysfs)
    }

    #[test]
    fn names_with_and_without_the_device() {
        let (_dir, sysfs) = sysfs(&["mdma-64M", "mnvme-64M", "mnvme-1G"]);
        for name in ["64M", "mnvme-64M"] {
            assert_eq!(find_type(&sysfs, "mnvme", name).unwrap().id, "mnvme-64M");
        }
        // A type of another device is none.
        for name in ["mdma-64M", "4M", ""] {
            let e = find_type(&sysfs, "mnvme", name).unwrap_err().to_string();
            assert!(e.contains("it has mnvme-1G, mnvme-64M"), "{name}: {e}");
        }
        let e = find_type(&sysfs, "scratch", "1").unwrap_err().to_string();
        assert!(e.contains("scratch"), "{e}");
    }

    #[test]
    fn the_smallest_by_size() {
        let (_dir, sysfs) = sysfs(&["mnvme-1G", "mnvme-256M", "mnvme-64M", "scratch-1"]);
        let id = |device| smallest_type(&sysfs, device).unwrap().id;
        assert_eq!(id("mnvme"), "mnvme-64M");
        assert_eq!(id("scratch"), "scratch-1");
        let kinds = types_by_size(&sysfs, "mnvme").unwrap();
        let ids: Vec<_> = kinds.iter().map(|kind| kind.id.as_str()).collect();
        assert_eq!(ids, ["mnvme-64M", "mnvme-256M", "mnvme-1G"]);
        let sizes: Vec<_> = kinds
            .iter()
            .map(|kind| size_of_type(&sysfs, "mnvme", kind))
            .collect();
        assert_eq!(sizes, [Some(64 << 20), Some(256 << 20), Some(1 << 30)]);
    }
}
