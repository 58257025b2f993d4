// SPDX-License-Identifier: GPL-2.0

//! Mediated devices in sysfs: parents, their types, and instances.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::container::Container;
use crate::device::Device;
use crate::error::{Context, Error, Result};
use crate::group::Group;

/// The root of sysfs. Tests use another directory.
#[derive(Clone, Debug)]
pub struct Sysfs(PathBuf);

/// A device that offers types of instances.
#[derive(Clone, Debug)]
pub struct Parent {
    sysfs: Sysfs,
    /// Its name.
    pub name: String,
    path: PathBuf,
}

/// A type of instances that a parent offers.
#[derive(Clone, Debug)]
pub struct Type {
    sysfs: Sysfs,
    /// The name in sysfs, for example `mdma-16M`.
    pub id: String,
    /// The parent's name.
    pub parent: String,
    path: PathBuf,
}

/// A mediated device.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its name.
    pub uuid: Uuid,
    path: PathBuf,
}

/// A UUID in its canonical text form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(String);

impl Uuid {
    /// Parses 8-4-4-4-12 hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim().to_ascii_lowercase();
        let valid = text.len() == 36
            && text.bytes().enumerate().all(|(i, b)| match i {
                8 | 13 | 18 | 23 => b == b'-',
                _ => b.is_ascii_hexdigit(),
            });
        if valid {
            Ok(Uuid(text))
        } else {
            Err(Error::new(
                format!("uuid {text:?}"),
                io::Error::new(io::ErrorKind::InvalidInput, "not of the form 8-4-4-4-12"),
            ))
        }
    }

    /// Returns a random UUID from the kernel.
    pub fn random() -> Result<Self> {
        let path = "/proc/sys/kernel/random/uuid";
        Self::parse(&fs::read_to_string(path).field(|| path.into())?)
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl std::str::FromStr for Uuid {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl Default for Sysfs {
    fn default() -> Self {
        Sysfs(PathBuf::from("/sys"))
    }
}

impl Sysfs {
    /// Uses sysfs, or an imitation of it, at a path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Sysfs(path.into())
    }

    /// Returns all parents, sorted by name. There are none if the mdev module is not loaded.
    pub fn parents(&self) -> Result<Vec<Parent>> {
        let class = self.0.join("class/mdev_bus");
        let parent = |name| Parent {
            sysfs: self.clone(),
            path: class.join(&name),
            name,
        };
        Ok(list(&class)?.into_iter().map(parent).collect())
    }

    /// Returns the parent of this name.
    pub fn parent(&self, name: &str) -> Result<Parent> {
        let parents = self.parents()?;
        parents.into_iter().find(|p| p.name == name).ok_or_else(|| {
            Error::not_found(
                format!("mdev parent {name}"),
                "no such parent; is its module loaded?",
            )
        })
    }

    /// Returns all types of all parents.
    pub fn types(&self) -> Result<Vec<Type>> {
        let mut types = Vec::new();
        for parent in self.parents()? {
            types.extend(parent.types()?);
        }
        Ok(types)
    }

    /// Finds a type by its name, or by the part of the name after the parent's prefix.
    pub fn find_type(&self, name: &str) -> Result<Type> {
        let types = self.types()?;
        let suffix = format!("-{name}");
        let exact = types.iter().find(|t| t.id == name);
        exact
            .or_else(|| types.iter().find(|t| t.id.ends_with(&suffix)))
            .cloned()
            .ok_or_else(|| {
                let known: Vec<_> = types.iter().map(|t| t.id.as_str()).collect();
                Error::not_found(
                    format!("mdev type {name}"),
                    match known.is_empty() {
                        true => "no parent offers any type; is its module loaded?".to_string(),
                        false => format!("no such type; the types are {}", known.join(", ")),
                    },
                )
            })
    }

    /// Returns all instances, sorted by UUID. There are none if the mdev module is not loaded.
    pub fn instances(&self) -> Result<Vec<Instance>> {
        let devices = self.0.join("bus/mdev/devices");
        list(&devices)?
            .into_iter()
            .map(|name| {
                Ok(Instance {
                    path: devices.join(&name),
                    uuid: Uuid::parse(&name)?,
                })
            })
            .collect()
    }

    /// Returns the instance with this UUID.
    pub fn instance(&self, uuid: &Uuid) -> Result<Instance> {
        let path = self.0.join("bus/mdev/devices").join(uuid.as_str());
        if !path.exists() {
            return Err(Error::not_found(
                format!("mdev {uuid}"),
                "there is no such mediated device",
            ));
        }
        Ok(Instance {
            uuid: uuid.clone(),
            path,
        })
    }
}

impl Parent {
    /// Returns its types.
    pub fn types(&self) -> Result<Vec<Type>> {
        let path = self.path.join("mdev_supported_types");
        let of = |id: String| Type {
            sysfs: self.sysfs.clone(),
            path: path.join(&id),
            id,
            parent: self.name.clone(),
        };
        Ok(list(&path)?.into_iter().map(of).collect())
    }
}

impl Type {
    /// Returns its directory in sysfs.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads `name`.
    pub fn name(&self) -> Result<String> {
        read(&self.path.join("name"))
    }

    /// Reads `description`, if the driver has one.
    pub fn description(&self) -> Result<Option<String>> {
        match read(&self.path.join("description")) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.is(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Reads `device_api`, for example `vfio-pci`.
    pub fn device_api(&self) -> Result<String> {
        read(&self.path.join("device_api"))
    }

    /// Reads `available_instances`.
    pub fn available_instances(&self) -> Result<u32> {
        let path = self.path.join("available_instances");
        let text = read(&path)?;
        text.parse().map_err(|_| {
            Error::other(
                path.display().to_string(),
                format!("{text:?} is not a number"),
            )
        })
    }

    /// Returns the UUIDs of its instances.
    pub fn instances(&self) -> Result<Vec<Uuid>> {
        list(&self.path.join("devices"))?
            .iter()
            .map(|name| Uuid::parse(name))
            .collect()
    }

    /// Creates an instance.
    pub fn create(&self, uuid: &Uuid) -> Result<Instance> {
        fs::write(self.path.join("create"), uuid.as_str())
            .field(|| format!("create {} of type {}", uuid, self.id))?;
        self.sysfs.instance(uuid)
    }
}

impl Instance {
    /// Returns its directory in sysfs.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the name of its type.
    pub fn type_id(&self) -> Result<String> {
        link_name(&self.path.join("mdev_type"))
    }

    /// Returns the name of its parent.
    pub fn parent(&self) -> Result<String> {
        let path = fs::canonicalize(&self.path).field(|| self.path.display().to_string())?;
        let parent = path.parent().and_then(Path::file_name);
        Ok(parent
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default())
    }

    /// Returns the number of its IOMMU group.
    pub fn iommu_group(&self) -> Result<u32> {
        let link = self.path.join("iommu_group");
        let name = link_name(&link)?;
        name.parse().map_err(|_| {
            Error::other(
                link.display().to_string(),
                format!("{name:?} is not a number"),
            )
        })
    }

    /// Opens it in a container, which may hold other devices.
    pub fn open(&self, container: &Container) -> Result<Device> {
        Group::open(self.iommu_group()?, container)?.device(self.uuid.as_str())
    }

    /// Opens it in a new container.
    pub fn open_alone(&self) -> Result<Device> {
        self.open(&Container::open()?)
    }

    /// Reads one of its attributes; `None` if the driver has no such attribute.
    pub fn attribute(&self, name: &str) -> Result<Option<String>> {
        match read(&self.path.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.is(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes one of its attributes. Needs root.
    pub fn set_attribute(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.path.join(name), text)
            .field(|| format!("write {text} to {name} of {}", self.uuid))
    }

    /// Returns the settings among its attributes, with their texts: what root can write and everybody can read, and
    /// what the driver defines.
    pub fn settings(&self) -> Result<BTreeMap<String, String>> {
        let mut settings = BTreeMap::new();
        for name in list(&self.path)? {
            let metadata = fs::symlink_metadata(self.path.join(&name)).field(|| name.clone())?;
            // `remove` and `uevent` are requests to the driver core, `migration_version` is one to the driver.
            let is_setting = metadata.is_file() && metadata.mode() & 0o600 == 0o600;
            if is_setting && !["uevent", "migration_version"].contains(&&*name) {
                settings.extend(self.attribute(&name)?.map(|text| (name, text)));
            }
        }
        Ok(settings)
    }

    /// Returns whether the device keeps its state when its last user closes it; `None` if the driver has no such
    /// attribute.
    pub fn keeps_state(&self) -> Result<Option<bool>> {
        Ok(self.attribute("keep_state")?.map(|text| text != "0"))
    }

    /// Sets whether the device keeps its state when its last user closes it. Needs root.
    pub fn keep_state(&self, keep: bool) -> Result<()> {
        self.set_attribute("keep_state", if keep { "1" } else { "0" })
    }

    /// Returns the name of its migration interface: `v1` (which goes with v2), `v7` or `2018`; `None` if the driver has no
    /// such attribute.
    pub fn migration_abi(&self) -> Result<Option<String>> {
        self.attribute("migration_abi")
    }

    /// Chooses its migration interface, before its first open. Needs root.
    pub fn set_migration_abi(&self, name: &str) -> Result<()> {
        self.set_attribute("migration_abi", name)
    }

    /// Returns whether device memory in a saved state has checksums; `None` if the driver has no such attribute.
    pub fn payload_checksums(&self) -> Result<Option<bool>> {
        Ok(self.attribute("payload_checksums")?.map(|text| text != "0"))
    }

    /// Sets whether device memory in the next saved state has checksums. Needs root.
    pub fn set_payload_checksums(&self, on: bool) -> Result<()> {
        self.set_attribute("payload_checksums", if on { "1" } else { "0" })
    }

    /// Returns which streams it takes, as text; `None` if the driver has no such attribute.
    pub fn migration_version(&self) -> Result<Option<String>> {
        self.attribute("migration_version")
    }

    /// Asks whether it takes the streams of a device whose `migration_version` this is.
    /// `EINVAL` if not. Needs root.
    pub fn check_migration_version(&self, text: &str) -> Result<()> {
        self.set_attribute("migration_version", text)
    }

    /// Unbinds it from its driver, after waiting for its user to close it.
    pub fn unbind(&self) -> Result<()> {
        fs::write(self.path.join("driver/unbind"), self.uuid.as_str())
            .field(|| format!("unbind {}", self.uuid))
    }

    /// Returns the name of its driver; `None` if it has none.
    pub fn driver(&self) -> Option<String> {
        link_name(&self.path.join("driver")).ok()
    }

    /// Removes it, after waiting for its user to close it.
    pub fn remove(&self) -> Result<()> {
        fs::write(self.path.join("remove"), "1").field(|| format!("remove {}", self.uuid))
    }
}

/// An instance that is removed on drop. What uses it must be dropped before.
#[derive(Debug)]
pub struct Removed(pub Instance);

impl Drop for Removed {
    fn drop(&mut self) {
        if let Err(e) = self.0.remove() {
            eprintln!("{e}");
        }
    }
}

/// Returns the names in a directory, sorted; none if the directory does not exist.
fn list(path: &Path) -> Result<Vec<String>> {
    let what = || path.display().to_string();
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::new(what(), e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(
            entry
                .field(what)?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    names.sort_unstable();
    Ok(names)
}

/// Reads an attribute.
fn read(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).field(|| path.display().to_string())?;
    Ok(text.trim_end().to_string())
}

/// Returns the last part of a link's target.
fn link_name(path: &Path) -> Result<String> {
    let target = fs::read_link(path).field(|| path.display().to_string())?;
    Ok(target
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

    /// Creates a tree like the mdev core's.
    fn tree() -> (tempfile::TempDir, Sysfs) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let parent = root.join("devices/virtual/mdma/mdma");
        let kind = parent.join("mdev_supported_types/mdma-256M");
        fs::create_dir_all(kind.join("devices")).unwrap();
        for (file, text) in [
            ("name", "256 MiB\n"),
            ("device_api", "vfio-pci\n"),
            ("available_instances", "16\n"),
            ("create", ""),
        ] {
            fs::write(kind.join(file), text).unwrap();
        }
        let device = parent.join(UUID);
        fs::create_dir_all(&device).unwrap();
        fs::create_dir_all(root.join("kernel/iommu_groups/7")).unwrap();
        symlink(&kind, device.join("mdev_type")).unwrap();
        symlink(
            "../../../../kernel/iommu_groups/7",
            device.join("iommu_group"),
        )
        .unwrap();
        fs::create_dir_all(root.join("bus/mdev/devices")).unwrap();
        symlink(&device, root.join("bus/mdev/devices").join(UUID)).unwrap();
        symlink(&device, kind.join("devices").join(UUID)).unwrap();
        fs::create_dir_all(root.join("class/mdev_bus")).unwrap();
        symlink(&parent, root.join("class/mdev_bus/mdma")).unwrap();
        let sysfs = Sysfs::at(root);
        (dir, sysfs)
    }

    #[test]
    fn parents_types_and_instances() {
        let (_dir, sysfs) = tree();
        assert_eq!(sysfs.parent("mdma").unwrap().name, "mdma");
        let kind = sysfs.find_type("256M").unwrap();
        assert_eq!(kind.id, "mdma-256M");
        assert_eq!(kind.name().unwrap(), "256 MiB");
        assert_eq!(kind.description().unwrap(), None);
        assert_eq!(kind.device_api().unwrap(), "vfio-pci");
        assert_eq!(kind.available_instances().unwrap(), 16);
        assert_eq!(kind.instances().unwrap(), [Uuid::parse(UUID).unwrap()]);
        let instances = sysfs.instances().unwrap();
        assert_eq!(instances.len(), 1);
        assert_eq!(instances[0].type_id().unwrap(), "mdma-256M");
        assert_eq!(instances[0].parent().unwrap(), "mdma");
        assert_eq!(instances[0].iommu_group().unwrap(), 7);
        let other = Uuid::parse(&UUID.replace("1001", "1002")).unwrap();
        let e = sysfs.instance(&other).unwrap_err();
        assert_eq!(e.source.kind(), io::ErrorKind::NotFound);
        assert!(sysfs
            .find_type("1G")
            .unwrap_err()
            .to_string()
            .contains("mdma-256M"));
    }

    #[test]
    fn nothing_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let sysfs = Sysfs::at(dir.path());
        assert!(sysfs.parents().unwrap().is_empty());
        assert!(sysfs.instances().unwrap().is_empty());
        let e = sysfs.find_type("256M").unwrap_err();
        assert!(e.to_string().contains("module"), "{e}");
    }

    #[test]
    fn uuids() {
        assert_eq!(Uuid::parse(&UUID.to_uppercase()).unwrap().as_str(), UUID);
        for bad in [
            "",
            "83b8f4f2",
            &UUID[1..],
            &UUID.replace('-', "0"),
            "../../../../etc/passwd",
        ] {
            assert!(Uuid::parse(bad).is_err(), "{bad}");
        }
        assert_ne!(Uuid::random().unwrap(), Uuid::random().unwrap());
    }
}
