// SPDX-License-Identifier: GPL-2.0

//! Raw disk images, which are copied to and from an instance that no VMM has open.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use vfio_client::mdev::Instance;

use crate::disk::Disk;
use crate::error::{Error, Result};

/// Adds the path to an error of a file.
fn of(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    move |error| Error::File {
        path: path.into(),
        error,
    }
}

/// Returns whether all bytes are 0.
fn is_zero(data: &[u8]) -> bool {
    data.iter().all(|byte| *byte == 0)
}

/// Copies an image to an instance, and sets its `keep_state`. Blocks behind the end of the image become 0.
pub fn load(instance: &Instance, path: &Path) -> Result {
    let mut image = File::open(path).map_err(of(path))?;
    let len = image.seek(SeekFrom::End(0)).map_err(of(path))?;
    image.seek(SeekFrom::Start(0)).map_err(of(path))?;
    let device = instance.open_alone()?;
    let mut disk = Disk::open(&device)?;
    if len > disk.size() {
        return Err(Error::TooLarge {
            path: path.into(),
            len,
            size: disk.size(),
        });
    }
    let mut buffer = vec![0; Disk::TRANSFER_MAX];
    for at in (0..disk.size()).step_by(buffer.len()) {
        let data = &mut buffer[..(disk.size() - at).min(Disk::TRANSFER_MAX as u64) as usize];
        let part = len.saturating_sub(at).min(data.len() as u64) as usize;
        image.read_exact(&mut data[..part]).map_err(of(path))?;
        data[part..].fill(0);
        if is_zero(data) {
            disk.zero(at, data.len())?;
        } else {
            disk.write(at, data)?;
        }
    }
    disk.close()?;
    // Only a complete image survives the close.
    Ok(instance.keep_state(true)?)
}

/// Copies the namespace of an instance to an image. Zeroes become holes of the file. Overwrites a file only by `force`.
pub fn store(instance: &Instance, path: &Path, force: bool) -> Result {
    let device = instance.open_alone()?;
    let mut disk = Disk::open(&device)?;
    let mut options = File::options();
    options
        .write(true)
        .create_new(!force)
        .create(force)
        .truncate(force);
    let mut image = options.open(path).map_err(of(path))?;
    image.set_len(disk.size()).map_err(of(path))?;
    let mut buffer = vec![0; Disk::TRANSFER_MAX];
    for at in (0..disk.size()).step_by(buffer.len()) {
        let data = &mut buffer[..(disk.size() - at).min(Disk::TRANSFER_MAX as u64) as usize];
        disk.read(at, data)?;
        if !is_zero(data) {
            image.seek(SeekFrom::Start(at)).map_err(of(path))?;
            image.write_all(data).map_err(of(path))?;
        }
    }
    image.sync_all().map_err(of(path))?;
    disk.close()
}
