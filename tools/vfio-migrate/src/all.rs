// SPDX-License-Identifier: GPL-2.0

//! Saves all instances to a directory, and creates and loads them again, to replace a module by a newer one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vfio_client::mdev::{Instance, Sysfs, Uuid};
use vfio_client::{Device, Error};

use vfio_migrate::file::{self, NewFile};
use vfio_migrate::{Failure, Kind, Progress, Protocol, Source};

type Result<T> = std::result::Result<T, Failure>;

/// The file that lists the instances.
const INDEX: &str = "instances.json";

/// A saved instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// Its UUID, and the name of its file.
    pub(crate) uuid: String,
    /// Its parent.
    pub(crate) parent: String,
    /// Its type.
    #[serde(rename = "type")]
    pub(crate) type_id: String,
    /// Its settings: attributes that root can set.
    pub(crate) settings: BTreeMap<String, String>,
    /// Bytes of its stream; `None` if it does not keep a state without a user.
    pub(crate) bytes: Option<u64>,
}

/// Saves all instances that can migrate. Fails if one is in use, before anything is written.
///
/// The list of instances is written last, so a directory without it is not complete.
pub(crate) fn save_all(
    sysfs: &Sysfs,
    directory: &Path,
    force: bool,
    progress: &mut dyn Progress,
) -> Result<Vec<Saved>> {
    let mut found = Vec::new();
    for instance in sysfs.instances()? {
        let device = instance.open_alone()?;
        match Source::new(&device, Protocol::Auto, None) {
            Ok(_) => found.push((instance, device)),
            Err(failure) if failure.kind == Kind::NotMigratable => {}
            Err(failure) => return Err(failure),
        }
    }
    fs::create_dir_all(directory).map_err(|e| at(directory, "create", e))?;
    let index = NewFile::create(&directory.join(INDEX), force)?;
    let mut all = Vec::new();
    for (instance, device) in found {
        let bytes = match instance.keeps_state()? {
            Some(false) => None,
            _ => Some(save(
                &device,
                &path(directory, &instance.uuid),
                force,
                progress,
            )?),
        };
        all.push(Saved {
            uuid: instance.uuid.to_string(),
            parent: instance.parent()?,
            type_id: instance.type_id()?,
            settings: instance.settings()?,
            bytes,
        });
    }
    write_index(index, &all)?;
    Ok(all)
}

fn save(device: &Device, path: &Path, force: bool, progress: &mut dyn Progress) -> Result<u64> {
    let mut out = NewFile::create(path, force)?;
    let saved = file::save(device, Protocol::Auto, None, false, &mut out, progress)?;
    out.commit()?;
    Ok(saved.stop_and_copy.bytes)
}

fn write_index(mut index: NewFile, all: &[Saved]) -> Result<()> {
    let text = serde_json::to_string_pretty(all).expect("the index has string keys only");
    writeln!(index, "{text}").map_err(|e| Error::new(INDEX, e))?;
    index.commit()
}

/// Loads all instances of a directory, with their settings, and creates those that do not exist. The devices run
/// afterwards.
pub(crate) fn load_all(
    sysfs: &Sysfs,
    directory: &Path,
    progress: &mut dyn Progress,
) -> Result<Vec<Saved>> {
    let all = read_index(&directory.join(INDEX))?;
    for saved in &all {
        let uuid = Uuid::parse(&saved.uuid)?;
        let instance = match sysfs.instance(&uuid) {
            Ok(instance) => instance,
            Err(_) => create(sysfs, saved, &uuid)?,
        };
        for (name, text) in &saved.settings {
            // Most are settable only before the first open.
            if instance.attribute(name)?.as_ref() != Some(text) {
                instance.set_attribute(name, text)?;
            }
        }
        if saved.bytes.is_none() {
            continue;
        }
        let path = path(directory, &uuid);
        let open = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (size, input) = open.map_err(|e| at(&path, "open", e))?;
        file::load(
            &instance.open_alone()?,
            Protocol::Auto,
            None,
            &mut BufReader::with_capacity(1 << 16, input),
            Some(size),
            progress,
        )?;
    }
    Ok(all)
}

fn read_index(path: &Path) -> Result<Vec<Saved>> {
    let text = fs::read_to_string(path).map_err(|e| at(path, "open", e))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::other(path.display().to_string(), e.to_string()).into())
}

fn create(sysfs: &Sysfs, saved: &Saved, uuid: &Uuid) -> Result<Instance> {
    let types = sysfs.parent(&saved.parent)?.types()?;
    let Some(kind) = types.iter().find(|kind| kind.id == saved.type_id) else {
        let why = format!("the parent {} has no such type", saved.parent);
        return Err(Error::not_found(format!("mdev type {}", saved.type_id), why).into());
    };
    Ok(kind.create(uuid)?)
}

fn path(directory: &Path, uuid: &Uuid) -> PathBuf {
    directory.join(uuid.as_str())
}

fn at(path: &Path, what: &str, error: std::io::Error) -> Failure {
    Error::new(format!("{what} {}", path.display()), error).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(INDEX);
        let all = vec![Saved {
            uuid: "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001".into(),
            parent: "mdma".into(),
            type_id: "mdma-16M".into(),
            settings: BTreeMap::from([("keep_state".into(), "1".into())]),
            bytes: Some(4096),
        }];
        write_index(NewFile::create(&path, false).unwrap(), &all).unwrap();
        assert_eq!(read_index(&path).unwrap(), all);
        fs::write(&path, "[{}]").unwrap();
        let failure = read_index(&path).unwrap_err();
        assert!(failure.to_string().contains("uuid"), "{failure}");
    }
}
