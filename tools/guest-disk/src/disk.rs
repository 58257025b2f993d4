// SPDX-License-Identifier: GPL-2.0

//! The disk, its file system, and what the kernel counts.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::sync;
use rustix::mount::{mount, unmount, MountFlags, UnmountFlags};
use serde::Serialize;

use crate::wrong::Wrong;

/// Where the file system is mounted.
pub(crate) const MOUNT: &str = "/mnt";
/// A file that never changes.
const REFERENCE: &str = "/mnt/reference";
/// Its bytes.
const REFERENCE_SIZE: usize = 4 << 20;

/// A disk.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Found {
    /// Its name.
    name: String,
    /// Its PCI address.
    pci: String,
    pub(crate) model: String,
    pub(crate) serial: String,
    pub(crate) firmware: String,
    /// Bytes.
    pub(crate) size: u64,
    /// I/O queues.
    queues: usize,
}

/// What the kernel has counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Read commands.
    pub(crate) reads: u64,
    /// Write commands.
    pub(crate) writes: u64,
    /// Deallocate commands.
    pub(crate) discards: u64,
    /// Bytes of reads.
    pub(crate) bytes_read: u64,
    /// Bytes of writes.
    pub(crate) bytes_written: u64,
    /// Interrupts.
    pub(crate) interrupts: u64,
}

/// Reads a word of sysfs.
fn word(path: impl AsRef<Path>) -> Result<String, Wrong> {
    let path = path.as_ref();
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(text.trim().to_owned())
}

impl Found {
    /// Returns the first disk, if the driver has found it.
    pub(crate) fn look() -> Result<Option<Self>, Wrong> {
        let disk = Path::new("/sys/class/block/nvme0n1");
        if !disk.exists() || !Path::new("/dev/nvme0n1").exists() {
            return Ok(None);
        }
        let controller = Path::new("/sys/class/nvme/nvme0");
        let attribute = |name: &str| word(controller.join(name));
        let sectors: u64 = word(disk.join("size"))?.parse()?;
        Ok(Some(Found {
            name: "nvme0n1".into(),
            pci: attribute("address")?,
            model: attribute("model")?,
            serial: attribute("serial")?,
            firmware: attribute("firmware_rev")?,
            size: sectors * 512,
            queues: fs::read_dir(disk.join("mq"))?.count(),
        }))
    }

    /// Returns what the kernel has counted.
    pub(crate) fn counts(&self) -> Result<Counts, Wrong> {
        let stat = word(format!("/sys/class/block/{}/stat", self.name))?;
        let numbers = stat.split_ascii_whitespace().map(str::parse);
        let numbers: Vec<u64> = numbers.collect::<Result<_, _>>()?;
        let at = |index: usize| numbers.get(index).copied().unwrap_or(0);
        let mut interrupts = 0;
        for line in fs::read_to_string("/proc/interrupts")?.lines() {
            if line.contains("nvme0q") {
                let words = line.split_ascii_whitespace().skip(1);
                interrupts += words
                    .map_while(|word| word.parse::<u64>().ok())
                    .sum::<u64>();
            }
        }
        Ok(Counts {
            reads: at(0),
            writes: at(4),
            discards: at(11),
            bytes_read: at(2) * 512,
            bytes_written: at(6) * 512,
            interrupts,
        })
    }

    /// Returns the device for the file system: the second partition of a disk from which the guest was booted.
    fn device(&self) -> String {
        let second = format!("/dev/{}p2", self.name);
        if Path::new(&second).exists() {
            return second;
        }
        format!("/dev/{}", self.name)
    }

    /// Makes a file system, with the reference file on it.
    pub(crate) fn format(&self) -> Result<(), Wrong> {
        run(
            "/usr/sbin/mke2fs",
            &["-q", "-F", "-t", "ext4", &self.device()],
        )?;
        self.mount()?;
        fs::write(REFERENCE, reference())?;
        sync();
        Ok(())
    }

    fn mount(&self) -> Result<(), Wrong> {
        fs::create_dir_all(MOUNT)?;
        let device = self.device();
        mount(
            &device,
            MOUNT,
            "ext4",
            MountFlags::empty(),
            Some(c"discard"),
        )
        .map_err(|e| format!("mount {device}: {e}"))?;
        Ok(())
    }

    /// Compares the reference file with what must be in it, from the disk.
    pub(crate) fn check(&self) -> Result<(), Wrong> {
        sync();
        fs::write("/proc/sys/vm/drop_caches", "3")?;
        let (found, expected) = (fs::read(REFERENCE)?, reference());
        if found == expected {
            return Ok(());
        }
        let at = found.iter().zip(&expected).position(|(a, b)| a != b);
        Err(format!(
            "{REFERENCE}: {} bytes, first difference at {at:?}",
            found.len()
        )
        .into())
    }

    /// Unmounts the file system and checks its structure.
    pub(crate) fn finish(&self) -> Result<(), Wrong> {
        self.check()?;
        unmount(MOUNT, UnmountFlags::empty()).map_err(|e| format!("unmount {MOUNT}: {e}"))?;
        run("/usr/sbin/e2fsck", &["-f", "-n", &self.device()])
    }
}

/// The contents of the reference file.
fn reference() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(1);
    (0..REFERENCE_SIZE).map(|_| random.u8(..)).collect()
}

/// Runs a program to its end. Returns whether it succeeded, and what it said.
pub(crate) fn ask(program: &str, arguments: &[&str]) -> Result<(bool, String), Wrong> {
    let done = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{program}: {e}"))?;
    let text = [done.stdout, done.stderr].concat();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    Ok((done.status.success(), text))
}

/// Runs a program to its end, and fails with what it said.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<(), Wrong> {
    match ask(program, arguments)? {
        (true, _) => Ok(()),
        (false, text) => Err(format!("{program} {}: {text}", arguments.join(" ")).into()),
    }
}
