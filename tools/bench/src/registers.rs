// SPDX-License-Identifier: GPL-2.0

//! Accesses to registers by system calls, as a VMM makes them for a guest: without a migration, and during pre-copy.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use mdma::regs::Reg;
use vfio_client::v1::{offset, State};
use vfio_client::Region;

use crate::clock::Clock;
use crate::device::Opened;
use crate::error::{fail, Result};
use crate::report::{Cell, Table};

const COLUMNS: &[&str] = &["access", "no migration", "pre-copy", "×"];

/// Accesses of each kind per measurement.
const TIMES: u64 = 1000;

/// An access to a region.
struct Access {
    name: &'static str,
    region: fn(&Opened) -> &Region,
    offset: u64,
    width: usize,
    /// The value to write; `None` reads.
    value: Option<u64>,
}

impl Access {
    fn measure(&self, clock: &Clock, device: &Opened) -> Result<f64> {
        let region = (self.region)(device);
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

fn registers(device: &Opened) -> &Region {
    &device.registers
}

fn memory(device: &Opened) -> &Region {
    &device.memory
}

fn migration(device: &Opened) -> &Region {
    device.migration.region()
}

/// Measures each access in both states.
pub(crate) fn run(clock: &Clock, kind: &str) -> Result<Vec<Table>> {
    let device = Opened::new(kind)?;
    device.device.config()?.enable()?;
    device.populate()?;
    let [id, scratch] = [Reg::Id, Reg::Scratch].map(|reg| reg.row().offset);
    let access = |name, region, offset, width, value| Access {
        name,
        region,
        offset,
        width,
        value,
    };
    let accesses = [
        access("BAR 0: read of 4 bytes", registers, id, 4, None),
        access("BAR 0: write of 4 bytes", registers, scratch, 4, Some(7)),
        access("BAR 2: read of 4 bytes", memory, 0, 4, None),
        access("BAR 2: write of 4 bytes", memory, 0, 4, Some(7)),
        access(
            "read of device_state",
            migration,
            offset::DEVICE_STATE,
            4,
            None,
        ),
        access("read of data_size", migration, offset::DATA_SIZE, 8, None),
        access(
            "read of pending_bytes",
            migration,
            offset::PENDING_BYTES,
            8,
            None,
        ),
        access("read of 8 bytes of data", migration, 4096, 8, None),
    ];

    let title = format!(
        "Accesses to regions, cost of a system call. Pre-copy has sent nothing yet of {}.",
        vfio_migrate::format::bytes(device.memory_size())
    );
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
            .map(|access| access.measure(clock, &device))
            .collect()
    };
    let before = measure()?;
    device.set_state(State::PRE_COPY)?;
    let during = measure()?;
    device.set_state(State::RUNNING)?;
    for (access, (before, during)) in accesses.iter().zip(before.into_iter().zip(during)) {
        table.row([
            access.name.into(),
            Cell::Count(before),
            Cell::Count(during),
            Cell::Ratio(during / before),
        ]);
    }
    Ok(vec![table])
}
