// SPDX-License-Identifier: GPL-2.0

//! Accesses to registers by system calls, as a VMM makes them for a guest: without a migration, and during pre-copy.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use contents::{Place, Register};
use vfio_client::v1::{offset, State};
use vfio_client::{v2, Device, Region};

use crate::clock::Clock;
use crate::device::Opened;
use crate::error::{fail, Result};
use crate::report::{Cell, Table};
use crate::subject::Subject;

const COLUMNS: &[&str] = &["access", "no migration", "pre-copy", "×"];

/// Accesses of each kind per measurement.
const TIMES: u64 = 1000;

/// An access to a region.
struct Access {
    name: String,
    region: Region,
    offset: u64,
    width: usize,
    /// The value to write; `None` reads.
    value: Option<u64>,
}

impl Access {
    /// An access to a register or to a word of memory.
    fn new(region: &Region, offset: u64, width: usize, value: Option<u64>) -> Self {
        let verb = value.map_or("read", |_| "write");
        let bytes = if width == 1 { "byte" } else { "bytes" };
        Access {
            name: format!("BAR {}: {verb} of {width} {bytes}", region.info().index),
            region: region.clone(),
            offset,
            width,
            value,
        }
    }

    fn register(device: &Opened, register: &Register, value: Option<u64>) -> Result<Self> {
        let region = register.region(&device.device)?;
        Ok(Self::new(&region, register.offset, register.width, value))
    }

    fn measure(&self, clock: &Clock) -> Result<f64> {
        let region = &self.region;
        let mut bytes = [0; 8];
        let bytes = &mut bytes[..self.width];
        if let Some(value) = self.value {
            bytes.copy_from_slice(&value.to_le_bytes()[..self.width]);
        }
        clock.each(TIMES, || {
            let done = match self.value {
                None => region.pread(self.offset, bytes)?,
                Some(_) => region.pwrite(self.offset, bytes)?,
            };
            match done == self.width {
                true => Ok(()),
                false => fail!("{}: {done} bytes were transferred", self.name),
            }
        })
    }
}

/// Returns the accesses that a device has.
fn accesses(device: &Opened, subject: &Subject) -> Result<Vec<Access>> {
    let mut accesses = vec![
        Access::register(device, &subject.read, None)?,
        Access::register(device, &subject.write, Some(7))?,
    ];
    if let Some(Place::Bar(memory)) = subject.memory {
        let region = device.device.region(memory.bar)?;
        accesses.extend([None, Some(7)].map(|value| Access::new(&region, 0, 4, value)));
    }
    let migration = [
        ("read of device_state", offset::DEVICE_STATE, 4),
        ("read of data_size", offset::DATA_SIZE, 8),
        ("read of pending_bytes", offset::PENDING_BYTES, 8),
        ("read of 8 bytes of data", 4096, 8),
    ];
    accesses.extend(migration.map(|(name, offset, width)| Access {
        name: name.into(),
        region: device.migration.region().clone(),
        offset,
        width,
        value: None,
    }));
    Ok(accesses)
}

/// Measures each access in both states.
pub(crate) fn run(clock: &Clock, subject: &Subject) -> Result<Vec<Table>> {
    let device = Opened::new(&subject.kind)?;
    device.device.config()?.enable()?;
    let size = subject.populate(&device.device)?;
    let accesses = accesses(&device, subject)?;

    let mut title =
        "Accesses to regions, cost of a system call. Pre-copy has sent nothing yet".to_string();
    match size {
        0 => title.push('.'),
        size => title.push_str(&format!(" of {}.", vfio_migrate::format::bytes(size))),
    }
    let mut table = Table::new("registers", title, COLUMNS);
    let zero = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/zero")?;
    let mut bytes = [0; 4];
    for (name, count) in [
        (
            "/dev/zero: read of 4 bytes",
            clock.each(TIMES, || Ok(zero.read_at(&mut bytes, 0)?))?,
        ),
        (
            "/dev/zero: write of 4 bytes",
            clock.each(TIMES, || Ok(zero.write_at(&[0; 4], 0)?))?,
        ),
    ] {
        table.row([name.into(), Cell::Count(count), Cell::None, Cell::None]);
    }

    let measure = || -> Result<Vec<f64>> {
        accesses
            .iter()
            .map(|access| access.measure(clock))
            .collect()
    };
    let before = measure()?;
    device.set_state(State::PRE_COPY)?;
    let during = measure()?;
    device.set_state(State::RUNNING)?;
    for (access, (before, during)) in accesses.iter().zip(before.into_iter().zip(during)) {
        table.row([
            access.name.as_str().into(),
            Cell::Count(before),
            Cell::Count(during),
            Cell::Ratio(during / before),
        ]);
    }
    for (name, count) in precopy_info(clock, &device.device, size)? {
        table.row([name.into(), Cell::None, Cell::Count(count), Cell::None]);
    }
    Ok(vec![table])
}

/// Measures `VFIO_MIG_GET_PRECOPY_INFO` of v2, before anything is sent, and when a third of memory was sent. The user
/// asks for it as often as for `pending_bytes` of v1.
fn precopy_info(clock: &Clock, device: &Device, size: u64) -> Result<Vec<(&'static str, f64)>> {
    let Some(migration) = device.migration_v2()? else {
        fail!("the device does not have v2");
    };
    let Some(file) = migration.set_state(v2::State::PRE_COPY)? else {
        fail!("pre-copy opened no data file");
    };
    let mut rows = Vec::new();
    let mut measure = |name| -> Result<()> {
        let count = clock.each(1, || Ok(file.repeat_precopy_info(TIMES)?))?;
        rows.push((name, count / TIMES as f64));
        Ok(())
    };
    measure("GET_PRECOPY_INFO")?;
    if size != 0 {
        let mut bytes = vec![1; 1 << 20];
        let mut sent = 0;
        while sent < size / 3 {
            match file.read(&mut bytes)? {
                0 => fail!("the data file ended after {sent} bytes"),
                count => sent += count as u64,
            }
        }
        measure("GET_PRECOPY_INFO, a third sent")?;
    }
    drop(file);
    migration.set_state(v2::State::RUNNING)?;
    Ok(rows)
}
