// SPDX-License-Identifier: GPL-2.0

//! The state of a device in a file, which holds the stream and nothing else.
//!
//! So any tool can cut, join and send the file, and any reader of the stream can read it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{renameat_with, RenameFlags, CWD};
use serde::Serialize;
use vfio_client::{v1, Device, Error};

use crate::endpoint::{Destination, Protocol, Source};
use crate::error::{Failure, Result};
use crate::progress::{Pass, Phase, PhaseReport, Progress};

/// Result of a save.
#[derive(Clone, Debug, Serialize)]
pub struct Saved {
    /// The protocol used.
    pub protocol: Protocol,
    /// Written while the device ran.
    pub pre_copy: PhaseReport,
    /// Written while the device was stopped.
    pub stop_and_copy: PhaseReport,
}

/// Result of a load.
#[derive(Clone, Debug, Serialize)]
pub struct Loaded {
    /// The protocol used.
    pub protocol: Protocol,
    /// Read and loaded.
    #[serde(flatten)]
    pub loaded: PhaseReport,
}

/// Saves a device to `out`. The device runs afterwards, even after a failure.
pub fn save(
    device: &Device,
    protocol: Protocol,
    access: Option<v1::Access>,
    pre_copy: bool,
    out: &mut dyn Write,
    progress: &mut dyn Progress,
) -> Result<Saved> {
    let mut source = Source::new(device, protocol, access)?;
    let result = save_stream(&mut source, pre_copy, out, progress);
    let resumed = source.run();
    match (result, resumed) {
        (Ok(saved), Ok(())) => Ok(saved),
        (Ok(_), Err(e)) => Err(e),
        (Err(e), Ok(())) => Err(e.note("the device runs again")),
        (Err(e), Err(e2)) => Err(e.note(format!("the device could not be restarted: {e2}"))),
    }
}

fn save_stream(
    source: &mut Source,
    pre_copy: bool,
    out: &mut dyn Write,
    progress: &mut dyn Progress,
) -> Result<Saved> {
    let mut saved = Saved {
        protocol: source.protocol(),
        pre_copy: PhaseReport::default(),
        stop_and_copy: PhaseReport::default(),
    };
    if pre_copy && source.has_pre_copy() {
        source.pre_copy()?;
        let pending = source.pending()?;
        progress.phase(Phase::PreCopy(1), pending);
        saved.pre_copy = save_phase(source, pending, out, progress)?;
        progress.pass(&Pass {
            number: 1,
            pending,
            sent: saved.pre_copy,
        })?;
    }
    progress.stopping()?;
    source.stop_and_copy()?;
    progress.stopped()?;
    progress.phase(Phase::StopAndCopy, source.pending()?);
    saved.stop_and_copy = save_phase(source, u64::MAX, out, progress)?;
    progress.phase(Phase::Finish, 0);
    source.end()?;
    Ok(saved)
}

fn save_phase(
    source: &mut Source,
    limit: u64,
    out: &mut dyn Write,
    progress: &mut dyn Progress,
) -> Result<PhaseReport> {
    let begin = Instant::now();
    let mut sent = PhaseReport::default();
    let mut buffer = Vec::new();
    while sent.bytes < limit && source.next(&mut buffer)? {
        sent.bytes += buffer.len() as u64;
        sent.buffers += 1;
        progress.buffer(&mut buffer);
        out.write_all(&buffer)
            .map_err(|e| Error::new("write to the file", e).during("save"))?;
    }
    sent.time = begin.elapsed();
    Ok(sent)
}

/// Loads a device from `input`, after which it runs. A failed load resets it.
pub fn load(
    device: &Device,
    protocol: Protocol,
    access: Option<v1::Access>,
    input: &mut dyn Read,
    size: Option<u64>,
    progress: &mut dyn Progress,
) -> Result<Loaded> {
    let mut destination = Destination::new(device, protocol, access)?;
    let result = load_stream(&mut destination, input, size, progress);
    result.map_err(|e| match destination.abandon() {
        Ok(()) => e.note("the device was reset"),
        Err(e2) => e.note(format!("the device is unusable: {e2}")),
    })
}

fn load_stream(
    destination: &mut Destination,
    input: &mut dyn Read,
    size: Option<u64>,
    progress: &mut dyn Progress,
) -> Result<Loaded> {
    const STEP: usize = 1 << 20;
    let begin = Instant::now();
    let mut loaded = PhaseReport::default();
    destination.resume()?;
    progress.phase(Phase::Load, size.unwrap_or(0));
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        Read::take(&mut *input, STEP as u64)
            .read_to_end(&mut buffer)
            .map_err(|e| Error::new("read the file", e).during("load"))?;
        if buffer.is_empty() {
            break;
        }
        loaded.bytes += buffer.len() as u64;
        loaded.buffers += 1;
        progress.buffer(&mut buffer);
        destination.load(&buffer)?;
    }
    progress.phase(Phase::Finish, 0);
    destination.run()?;
    loaded.time = begin.elapsed();
    Ok(Loaded {
        protocol: destination.protocol(),
        loaded,
    })
}

/// A file that appears under its name only when complete and on disk.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    force: bool,
    done: bool,
}

impl NewFile {
    /// Creates it under a temporary name next to `path`. Without `force`, `path` must not exist.
    pub fn create(path: &Path, force: bool) -> Result<Self> {
        let what = |e| Failure::from(Error::new(format!("create {}", path.display()), e));
        if !force && path.symlink_metadata().is_ok() {
            return Err(
                what(io::Error::from_raw_os_error(vfio_client::errno::EEXIST))
                    .note("use --force to overwrite it"),
            );
        }
        let name = path.file_name().ok_or_else(|| {
            what(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a file name",
            ))
        })?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}", std::process::id()));
        let temporary = path.with_file_name(temporary);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(what)?;
        Ok(NewFile {
            file,
            temporary,
            path: path.to_path_buf(),
            force,
            done: false,
        })
    }

    /// Renames it to its final name.
    pub fn commit(mut self) -> Result<()> {
        let put = || -> io::Result<()> {
            self.file.sync_all()?;
            // A file created there meanwhile is not replaced either.
            let flags = match self.force {
                true => RenameFlags::empty(),
                false => RenameFlags::NOREPLACE,
            };
            renameat_with(CWD, &self.temporary, CWD, &self.path, flags)?;
            let directory = match self.path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            File::open(directory)?.sync_all()
        };
        put().map_err(|e| Error::new(format!("write {}", self.path.display()), e))?;
        self.done = true;
        Ok(())
    }
}

impl Write for NewFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.file.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn appears_when_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let mut f = NewFile::create(&path, false).unwrap();
        f.write_all(b"bytes").unwrap();
        assert!(!path.exists());
        f.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"bytes");
        assert_eq!(names(dir.path()), ["state"]);
    }

    #[test]
    fn leaves_nothing_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        drop(NewFile::create(&dir.path().join("state"), false).unwrap());
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn overwrites_only_by_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        // A file created while ours is written is not replaced either.
        let racing = NewFile::create(&path, false).unwrap();
        fs::write(&path, b"old").unwrap();
        assert!(racing
            .commit()
            .unwrap_err()
            .error
            .is(vfio_client::errno::EEXIST));
        let e = NewFile::create(&path, false).unwrap_err();
        assert!(e.error.is(vfio_client::errno::EEXIST));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let mut f = NewFile::create(&path, true).unwrap();
        f.write_all(b"new").unwrap();
        f.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["state"]);
    }
}
