// SPDX-License-Identifier: GPL-2.0

//! The same operations on the device, on the kernel's own sample `mtty`, and on files that do no more than copy: the
//! least that an access can cost.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use contents::Place;
use rustix::fs::{memfd_create, MemfdFlags};
use vfio_client::v2::{DataFd, State};
use vfio_client::{Device, Region};

use crate::clock::Clock;
use crate::data_file::{load, save};
use crate::device::Bare;
use crate::error::{fail, Result};
use crate::report::{Cell, Table};
use crate::subject::Subject;

const COLUMNS: &[&str] = &[
    "operation",
    "the device",
    "mtty",
    "/dev/zero",
    "memfd",
    "× mtty",
    "× memfd",
];

/// The type of the peer.
const PEER: &str = "mtty-1";
/// Its BAR with registers, and a register there that keeps what is written.
const PEER_BAR: u32 = 0;
const PEER_REGISTER: u64 = 4;
/// The widest access that it knows.
const PEER_WIDTH: usize = 4;

/// Calls per measurement of what is short, and of what is long.
const TIMES: u64 = 1000;
const FEW: u64 = 20;
/// Room for a stream without much memory.
const STREAM: usize = 4 << 20;
/// Bytes of a call.
const CALL: usize = 1 << 20;
/// Bytes of the copies.
const SIZES: [usize; 2] = [4 << 10, 1 << 20];

/// Costs of an operation, as far as it exists.
#[derive(Default)]
struct Costs {
    device: Option<f64>,
    peer: Option<f64>,
    zero: Option<f64>,
    memfd: Option<f64>,
}

impl Costs {
    fn row(&self, name: impl Into<Cell>) -> Vec<Cell> {
        let count = |cost: Option<f64>| cost.map_or(Cell::None, Cell::Count);
        let ratio = |to: Option<f64>| match (self.device, to) {
            (Some(device), Some(to)) => Cell::Ratio(device / to),
            _ => Cell::None,
        };
        vec![
            name.into(),
            count(self.device),
            count(self.peer),
            count(self.zero),
            count(self.memfd),
            ratio(self.peer),
            ratio(self.memfd),
        ]
    }
}

/// The files that only copy.
struct Floor {
    zero: File,
    memfd: File,
}

impl Floor {
    fn open() -> Result<Self> {
        let memfd = memfd_create("floor", MemfdFlags::CLOEXEC).map_err(std::io::Error::from)?;
        let memfd = File::from(memfd);
        memfd.write_all_at(&vec![1; SIZES[1]], 0)?;
        Ok(Floor {
            zero: OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/zero")?,
            memfd,
        })
    }
}

/// Measures all operations. Without the module of the peer, only those of the device.
pub(crate) fn run(clock: &Clock, subject: &Subject, has_peer: bool) -> Result<Vec<Table>> {
    let mut table = Table::new(
        "peers",
        "The device, the kernel's sample mtty, and files that only copy: the cost of a call, or of a whole save and \
         load through the data file of v2. The memory of the device is untouched, except in the rows about it.",
        COLUMNS,
    );
    let device = Bare::new(&subject.small, "v1")?;
    device.device.config()?.enable()?;
    let peer = match has_peer {
        true => Some(Bare::foreign(PEER)?),
        false => None,
    };
    if let Some(peer) = &peer {
        peer.device.config()?.enable()?;
    }
    let peer = peer.as_ref().map(|peer| &peer.device);
    let floor = Floor::open()?;
    for row in registers(clock, subject, &device.device, peer, &floor)? {
        table.row(row);
    }
    let mut both = |name: &str, measure: &dyn Fn(&Device) -> Result<f64>| -> Result<()> {
        let costs = Costs {
            device: Some(measure(&device.device)?),
            peer: peer.map(measure).transpose()?,
            ..Costs::default()
        };
        table.row(costs.row(name));
        Ok(())
    };
    both("state: RUNNING, STOP, RUNNING", &|device| {
        clock.each(FEW, || go(device, &[State::STOP, State::RUNNING]))
    })?;
    both("state: RUNNING, STOP_COPY, STOP, RUNNING", &|device| {
        clock.each(FEW, || {
            go(device, &[State::STOP_COPY, State::STOP, State::RUNNING])
        })
    })?;
    both("data file: save", &|device| {
        let mut stream = vec![0; STREAM];
        clock.each(FEW, || save(device, &mut stream, CALL))
    })?;
    both("data file: load", &|device| {
        let mut stream = vec![0; STREAM];
        let (_, len) = save(device, &mut stream, CALL)?;
        clock.each(FEW, || load(device, &stream[..len], CALL))
    })?;
    for row in memory(clock, subject, &device.device, &floor)? {
        table.row(row);
    }
    Ok(vec![table])
}

/// Reads and writes of registers.
fn registers(
    clock: &Clock,
    subject: &Subject,
    device: &Device,
    peer: Option<&Device>,
    floor: &Floor,
) -> Result<Vec<Vec<Cell>>> {
    let width = subject.read.width.min(subject.write.width).min(PEER_WIDTH);
    let peer = peer.map(|peer| peer.region(PEER_BAR)).transpose()?;
    let mut bytes = vec![0; width];
    let (read, write) = (&subject.read, &subject.write);
    let (reads, writes) = (read.region(device)?, write.region(device)?);
    let reading = Costs {
        device: Some(pread(clock, &reads, read.offset, &mut bytes)?),
        peer: match &peer {
            Some(peer) => Some(pread(clock, peer, PEER_REGISTER, &mut bytes)?),
            None => None,
        },
        zero: Some(clock.each(TIMES, || Ok(floor.zero.read_at(&mut bytes, 0)?))?),
        memfd: Some(clock.each(TIMES, || Ok(floor.memfd.read_at(&mut bytes, 0)?))?),
    };
    let bytes = vec![0; width];
    let writing = Costs {
        device: Some(pwrite(clock, &writes, write.offset, &bytes)?),
        peer: match &peer {
            Some(peer) => Some(pwrite(clock, peer, PEER_REGISTER, &bytes)?),
            None => None,
        },
        zero: Some(clock.each(TIMES, || Ok(floor.zero.write_at(&bytes, 0)?))?),
        memfd: Some(clock.each(TIMES, || Ok(floor.memfd.write_at(&bytes, 0)?))?),
    };
    Ok(vec![
        reading.row(format!("register: read of {width}")),
        writing.row(format!("register: write of {width}")),
    ])
}

/// Reads of device memory, if it is in a BAR.
fn memory(
    clock: &Clock,
    subject: &Subject,
    device: &Device,
    floor: &Floor,
) -> Result<Vec<Vec<Cell>>> {
    let region = match subject.memory {
        Some(Place::Bar(memory)) => Some(device.region(memory.bar)?),
        _ => None,
    };
    let mut rows = Vec::new();
    for size in SIZES {
        let mut bytes = vec![1; size];
        if let Some(region) = &region {
            write_all(region, &bytes)?;
        }
        let mut floor_of = |file: &File| -> Result<Option<f64>> {
            Ok(Some(
                clock.each(FEW, || Ok(file.read_exact_at(&mut bytes, 0)?))?,
            ))
        };
        let (zero, memfd) = (floor_of(&floor.zero)?, floor_of(&floor.memfd)?);
        let costs = Costs {
            device: match &region {
                Some(region) => Some(clock.each(FEW, || read_all(region, &mut bytes))?),
                None => None,
            },
            zero,
            memfd,
            ..Costs::default()
        };
        let size = vfio_migrate::format::bytes(size as u64);
        rows.push(costs.row(format!("memory: read of {size}")));
    }
    Ok(rows)
}

/// Reads the beginning of a region.
fn read_all(region: &Region, bytes: &mut [u8]) -> Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        match region.pread(at as u64, &mut bytes[at..])? {
            0 => fail!("a read of the region at {at:#x} returned nothing"),
            count => at += count,
        }
    }
    Ok(())
}

/// Writes the beginning of a region.
fn write_all(region: &Region, bytes: &[u8]) -> Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        match region.pwrite(at as u64, &bytes[at..])? {
            0 => fail!("a write to the region at {at:#x} wrote nothing"),
            count => at += count,
        }
    }
    Ok(())
}

/// The cost of a read.
fn pread(clock: &Clock, region: &Region, offset: u64, bytes: &mut [u8]) -> Result<f64> {
    clock.each(TIMES, || whole(region.pread(offset, bytes)?, bytes.len()))
}

/// The cost of a write.
fn pwrite(clock: &Clock, region: &Region, offset: u64, bytes: &[u8]) -> Result<f64> {
    clock.each(TIMES, || whole(region.pwrite(offset, bytes)?, bytes.len()))
}

/// Checks that a call has moved all.
fn whole(done: usize, len: usize) -> Result<()> {
    match done == len {
        true => Ok(()),
        false => fail!("{done} bytes of {len} were transferred"),
    }
}

/// Goes through states of v2. A data file that one of them opens is closed at once.
fn go(device: &Device, states: &[State]) -> Result<()> {
    let Some(migration) = device.migration_v2()? else {
        fail!("the device does not have v2");
    };
    let mut _file: Option<DataFd> = None;
    for state in states {
        _file = migration.set_state(*state)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_that_a_peer_lacks_has_no_ratio() {
        let costs = Costs {
            device: Some(8.0),
            memfd: Some(2.0),
            ..Costs::default()
        };
        let cells: Vec<_> = costs
            .row("read")
            .iter()
            .map(|cell| format!("{cell:?}"))
            .collect();
        assert_eq!(cells.len(), COLUMNS.len());
        assert_eq!(
            cells[1..],
            [
                "Count(8.0)",
                "None",
                "None",
                "Count(2.0)",
                "None",
                "Ratio(4.0)"
            ]
        );
    }
}
