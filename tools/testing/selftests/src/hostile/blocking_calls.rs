// SPDX-License-Identifier: GPL-2.0

//! A table of all calls that make the kernel or a device wait for a page of the user's memory, and the process that makes
//! them.
//!
//! `Documentation/blocking.rst` contains the same table; a test in this file compares them.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;

use ::hostile::{admitted, Victim};
use mdma::job;
use mdma::list::List;
use mdma::regs::{self, Reg};
use vfio_client::v2::{DataFd, State as V2State};
use vfio_client::{raw, v1, Access, BitmapRequest, Mapping};

use crate::env::Guest;
use crate::fixture::{device, guest, MdmaFixture, PAGE, QUEUE};
use crate::harness::result::Result;
use crate::{fail, skip};

/// The size of the stalling memory: pages for the test, then room for the rest of an argument.
pub(crate) const SIZE: usize = (1 << 20) + 8 * P;
const P: usize = PAGE as usize;
/// The IOVA of the stalling memory.
const STALLED: u64 = 0x4000_0000;

/// One call.
pub(crate) struct Row {
    /// The name in the document.
    pub(crate) name: &'static str,
    /// The part of the argument that is in the stalling memory.
    pub(crate) memory: &'static str,
    /// What other users of the same device, file or container wait for.
    pub(crate) held: &'static str,
    /// The initial contents of the memory. The rest is 0.
    contents: fn() -> Vec<u8>,
    /// The number of faults to answer before the one that stalls.
    pub(crate) answered: u64,
    /// Whether the device waits, not a call.
    pub(crate) dma: bool,
    /// Makes the call, or starts the DMA.
    run: fn(&MdmaFixture, &Arc<Mapping>) -> Result,
    /// A call that may wait for the device, made once the device waits.
    pub(crate) then: Option<fn(&MdmaFixture) -> Result>,
}

/// type1's lock, which each access of the container's devices takes.
const IOMMU: &str = "iommu->lock";
/// The current step of the device, which a call that stops the device waits for, and type1's lock.
const STEP: &str = "step, iommu->lock";

const ROW: Row = Row {
    name: "",
    memory: "the argument",
    held: "nothing",
    contents: Vec::new,
    answered: 0,
    dma: false,
    run: |_, _| Ok(()),
    then: None,
};

/// An ioctl whose argument stalls at the first access.
macro_rules! argument {
    ($name:literal, $number:literal, $fd:expr) => {
        Row {
            name: $name,
            run: |fixture, memory| {
                let fd: fn(&MdmaFixture) -> _ = $fd;
                raw::ioctl_in(fd(fixture), raw::nr($number), memory, 0)?;
                Ok(())
            },
            ..ROW
        }
    };
}

/// An ioctl of a device. Its header is at the end of a present page, and the data after it stalls.
macro_rules! after_header {
    ($name:literal, $memory:literal, $number:literal, $header:expr) => {
        Row {
            name: $name,
            memory: $memory,
            contents: || at_end_of_page(&$header),
            answered: 1,
            run: |fixture, memory| {
                let at = P - 4 * $header.len();
                raw::ioctl_in(&fixture.device, raw::nr($number), memory, at)?;
                Ok(())
            },
            ..ROW
        }
    };
}

/// A `pread` or `pwrite` of a region whose buffer is the stalling memory.
macro_rules! transfer {
    ($name:literal, $call:ident, $region:literal, $at:literal, $len:expr) => {
        Row {
            name: $name,
            memory: "the buffer",
            run: |fixture, memory| {
                let offset = fixture.region($region)?.info().offset + $at;
                $call(fixture, memory, offset, $len)
            },
            ..ROW
        }
    };
}

/// A job whose operand is in the stalling memory, and the second call.
macro_rules! dma {
    ($name:literal, $memory:literal, $held:expr, $job:expr, $then:expr) => {
        Row {
            name: $name,
            memory: $memory,
            held: $held,
            dma: true,
            run: |fixture, memory| begin(fixture, memory, $job),
            then: $then,
            ..ROW
        }
    };
}

/// The job of the rows with a second call.
const COPY: mdma::Descriptor = mdma::Descriptor {
    op: mdma::desc::Op::Copy,
    flags: mdma::desc::DST_DEVICE,
    src: STALLED,
    dst: 0,
    len: PAGE,
    value: 0,
    cookie: 0,
    src_entries: 0,
    dst_entries: 0,
    src_key: 0,
    dst_key: 0,
};

/// The index of the migration region, which has capabilities.
const V1_REGION: u32 = 9;

/// `VFIO_DEVICE_FEATURE_*`.
const GET: u32 = 1 << 16;
const SET: u32 = 1 << 17;

/// All calls.
#[rustfmt::skip]
pub(crate) const ROWS: &[Row] = &[
    // Containers.
    argument!("VFIO_IOMMU_GET_INFO", 12, |s| s.container.clone()),
    argument!("VFIO_IOMMU_MAP_DMA", 13, |s| s.container.clone()),
    argument!("VFIO_IOMMU_UNMAP_DMA", 14, |s| s.container.clone()),
    argument!("VFIO_IOMMU_DIRTY_PAGES", 17, |s| s.container.clone()),
    Row {
        name: "VFIO_IOMMU_DIRTY_PAGES GET_BITMAP",
        memory: "the bitmap",
        held: IOMMU,
        run: |fixture, memory| {
            let request = tracked(fixture)?;
            Ok(fixture.container.dirty_bitmap_into(&request, memory, 0)?)
        },
        ..ROW
    },
    Row {
        name: "VFIO_IOMMU_UNMAP_DMA GET_DIRTY_BITMAP",
        memory: "the bitmap",
        held: IOMMU,
        run: |fixture, memory| {
            let request = tracked(fixture)?;
            let request = BitmapRequest::unmap(request.iova, request.size, request.pgsize);
            fixture.container.unmap_dirty_into(&request, memory, 0)?;
            Ok(())
        },
        ..ROW
    },
    // Groups.
    argument!("VFIO_GROUP_GET_STATUS", 3, |s| s.device.group().clone()),
    argument!("VFIO_GROUP_SET_CONTAINER", 4, |s| s.device.group().clone()),
    argument!("VFIO_GROUP_GET_DEVICE_FD", 6, |s| s.device.group().clone()),
    // Devices.
    argument!("VFIO_DEVICE_GET_INFO", 7, |s| s.device.clone()),
    argument!("VFIO_DEVICE_GET_REGION_INFO", 8, |s| s.device.clone()),
    after_header!("VFIO_DEVICE_GET_REGION_INFO capabilities", "the capabilities", 8, [32 + 256, 0, V1_REGION, 0, 0, 0, 0, 0]),
    argument!("VFIO_DEVICE_GET_IRQ_INFO", 9, |s| s.device.clone()),
    argument!("VFIO_DEVICE_SET_IRQS", 10, |s| s.device.clone()),
    // DATA_EVENTFD | ACTION_TRIGGER of one vector of MSI-X.
    after_header!("VFIO_DEVICE_SET_IRQS data", "the data", 10, [24, 4 | 32, 2, 0, 1]),
    argument!("VFIO_DEVICE_FEATURE", 17, |s| s.device.clone()),
    after_header!("VFIO_DEVICE_FEATURE MIGRATION", "the data", 17, [16, GET | 1]),
    after_header!("VFIO_DEVICE_FEATURE MIG_DEVICE_STATE, GET", "the data", 17, [16, GET | 2]),
    after_header!("VFIO_DEVICE_FEATURE MIG_DEVICE_STATE, SET", "the data", 17, [16, SET | 2]),
    after_header!("VFIO_DEVICE_FEATURE MIG_DATA_SIZE", "the data", 17, [16, GET | 9]),
    // Reads and writes of the device's file.
    transfer!("read of configuration space", pread_at, 7, 0, 256),
    transfer!("write of configuration space", pwrite_at, 7, 4, 2),
    transfer!("read of BAR 0", pread_at, 0, 0, 4),
    transfer!("write of BAR 0", pwrite_at, 0, 0x40, 4),
    transfer!("read of BAR 2", pread_at, 2, 0, P),
    transfer!("write of BAR 2", pwrite_at, 2, 0, P),
    Row {
        name: "read of the migration region's registers",
        memory: "the buffer",
        run: |fixture, memory| pread_at(fixture, memory, fixture.migration.region().info().offset, 4),
        ..ROW
    },
    Row {
        name: "write of the migration region's registers",
        memory: "the buffer",
        run: |fixture, memory| pwrite_at(fixture, memory, fixture.migration.region().info().offset, 4),
        ..ROW
    },
    Row {
        name: "read of the data section",
        memory: "the buffer",
        run: |fixture, memory| {
            fixture.write_memory(0, &[1; 4096])?;
            fixture.go(&[v1::State::STOP_AND_COPY])?;
            fixture.migration.pending_bytes()?;
            let at = fixture.migration.data_offset()?;
            let size = fixture.migration.data_size()? as usize;
            let offset = fixture.migration.region().info().offset + at;
            pread_at(fixture, memory, offset, size.min(P))
        },
        ..ROW
    },
    Row {
        name: "write of the data section",
        memory: "the buffer",
        run: |fixture, memory| {
            fixture.go(&[v1::State::RESUMING])?;
            let at = fixture.migration.data_offset()?;
            pwrite_at(fixture, memory, fixture.migration.region().info().offset + at, P)
        },
        ..ROW
    },
    // Data descriptors.
    Row {
        name: "read of a data descriptor",
        memory: "the buffer",
        held: "the descriptor",
        run: |fixture, memory| {
            let stream = stream(fixture, V2State::STOP_COPY)?;
            stream.read_mapping(memory, 0, P)?;
            Ok(())
        },
        ..ROW
    },
    Row {
        name: "write of a data descriptor",
        memory: "the buffer",
        held: "the descriptor",
        run: |fixture, memory| {
            let stream = stream(fixture, V2State::RESUMING)?;
            stream.write_mapping(memory, 0, P)?;
            Ok(())
        },
        ..ROW
    },
    Row {
        name: "VFIO_MIG_GET_PRECOPY_INFO",
        run: |fixture, memory| {
            let stream = stream(fixture, V2State::PRE_COPY)?;
            raw::ioctl_in(&stream, raw::nr(21), memory, 0)?;
            Ok(())
        },
        ..ROW
    },
    // DMA by the device.
    Row {
        name: "DMA of descriptors",
        memory: "the ring",
        held: STEP,
        dma: true,
        run: |fixture, memory| queue(fixture, memory, STALLED, QUEUE),
        ..ROW
    },
    Row {
        name: "DMA of completion records",
        memory: "the ring",
        held: STEP,
        dma: true,
        run: |fixture, memory| queue(fixture, memory, QUEUE, STALLED),
        ..ROW
    },
    dma!("DMA from the source of a copy", "guest memory", STEP, COPY, None),
    dma!("DMA to the destination of a copy", "guest memory", STEP,
        job::copy(device(0), guest(STALLED), PAGE), None),
    dma!("DMA to the destination of a fill", "guest memory", STEP, job::fill(guest(STALLED), 1, PAGE), None),
    dma!("DMA from the source of a checksum", "guest memory", STEP, job::crc32c(guest(STALLED), PAGE), None),
    dma!("DMA of a scatter list", "the list", STEP,
        job::copy(List { base: STALLED, entries: 2 }, device(0), PAGE), None),
    // Calls that wait for a device that waits for memory.
    dma!("VFIO_DEVICE_RESET during DMA", "guest memory", "step, iommu->lock, session", COPY,
        Some(|s| Ok(s.device.reset()?))),
    dma!("bus master off during DMA", "guest memory", "step, iommu->lock, config", COPY,
        Some(|s| Ok(s.device.config()?.set_bus_master(false)?))),
    dma!("queue disabled during DMA", "guest memory", STEP, COPY,
        Some(|s| Ok(s.mdma.set(Reg::Control, 0)?))),
    dma!("device_state STOP during DMA", "guest memory", "step, iommu->lock, session", COPY,
        Some(|s| Ok(s.migration.write_state(v1::State::STOP)?))),
    dma!("MIG_DEVICE_STATE STOP during DMA", "guest memory", "step, iommu->lock, session", COPY,
        Some(|s| v2(s)?.set_state(V2State::STOP).map(drop).map_err(Into::into))),
    dma!("read of BAR 0 during DMA", "guest memory", STEP, COPY,
        Some(|s| s.registers().map(drop))),
    dma!("VFIO_IOMMU_UNMAP_DMA during DMA", "guest memory", STEP, COPY,
        Some(|s| Ok(s.container.unmap(STALLED, SIZE as u64).map(drop)?))),
];

impl Row {
    /// Returns the contents of the memory.
    pub(crate) fn contents(&self) -> Vec<u8> {
        let mut bytes = (self.contents)();
        bytes.resize(SIZE, 0);
        bytes
    }
}

/// Returns a page with these words at its end.
fn at_end_of_page(words: &[u32]) -> Vec<u8> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let mut page = vec![0; P - bytes.len()];
    page.extend(bytes);
    page
}

fn pread_at(fixture: &MdmaFixture, memory: &Mapping, offset: u64, len: usize) -> Result {
    fixture.device.pread_mapping(offset, memory, 0, len)?;
    Ok(())
}

fn pwrite_at(fixture: &MdmaFixture, memory: &Mapping, offset: u64, len: usize) -> Result {
    fixture.device.pwrite_mapping(offset, memory, 0, len)?;
    Ok(())
}

/// Maps memory, starts dirty tracking, and returns the request for its bitmap.
fn tracked(fixture: &MdmaFixture) -> Result<BitmapRequest> {
    const IOVA: u64 = 0x10_0000;
    const LEN: u64 = 64 * PAGE;
    let memory = Arc::new(Mapping::anonymous(LEN as usize)?);
    fixture.container.map(IOVA, &memory, Access::ReadWrite)?;
    fixture.container.dirty_start()?;
    Ok(BitmapRequest::get(IOVA, LEN, PAGE))
}

fn v2(fixture: &MdmaFixture) -> Result<vfio_client::v2::Migration> {
    match fixture.device.migration_v2()? {
        Some(feature) => Ok(feature),
        None => fail!("the device has no migration feature"),
    }
}

fn stream(fixture: &MdmaFixture, state: V2State) -> Result<DataFd> {
    match v2(fixture)?.set_state(state)? {
        Some(stream) => Ok(stream),
        None => fail!("the device returned no data file for {state}"),
    }
}

/// Enables a queue with its rings at these IOVAs, one of them in the stalling memory, and rings the doorbell.
fn queue(fixture: &MdmaFixture, memory: &Arc<Mapping>, ring: u64, completions: u64) -> Result {
    let own = Arc::new(Mapping::anonymous(P)?);
    own.write(0, &job::nop().encode());
    fixture.container.map(QUEUE, &own, Access::ReadWrite)?;
    fixture.container.map(STALLED, memory, Access::ReadWrite)?;
    fixture.mdma.set(Reg::RingBase, ring)?;
    fixture.mdma.set(Reg::RingOrder, 4)?;
    fixture.mdma.set(Reg::CompletionBase, completions)?;
    let enable = regs::CONTROL_ENABLE.into();
    fixture.mdma.set(Reg::Control, enable)?;
    Ok(fixture.mdma.set(Reg::Tail, 1)?)
}

/// Starts a job in a queue that does not stall.
fn begin(fixture: &MdmaFixture, memory: &Arc<Mapping>, job: mdma::Descriptor) -> Result {
    fixture.container.map(STALLED, memory, Access::ReadWrite)?;
    let rings = Arc::new(Mapping::anonymous(2 * P)?);
    rings.write(0, &job.encode());
    fixture.container.map(QUEUE, &rings, Access::ReadWrite)?;
    fixture.mdma.set(Reg::RingBase, QUEUE)?;
    fixture.mdma.set(Reg::RingOrder, 4)?;
    fixture.mdma.set(Reg::CompletionBase, QUEUE + PAGE)?;
    let enable = regs::CONTROL_ENABLE.into();
    fixture.mdma.set(Reg::Control, enable)?;
    Ok(fixture.mdma.set(Reg::Tail, 1)?)
}

/// The process that blocks: `ROW MEMORY UUID`. It announces its memory and its device, and makes the call of the row when
/// it reads a line. Then it prints `done`, and makes the second call when it reads another line.
pub(crate) fn main(args: &[String]) -> Result {
    admitted()?;
    let [row, spec, uuid] = args else {
        skip!("block takes a row, a memory and a UUID");
    };
    let row = &ROWS[row.parse::<usize>()?];
    let victim = Victim::new(spec)?;
    let guest = Guest::of_uuid(uuid)?;
    // The previous user may have left a job that waits for its memory.
    guest.device.reset()?;
    let fixture = MdmaFixture::of(guest)?;
    let mut out = std::io::stdout();
    let fd = fixture.device.as_fd().as_raw_fd();
    writeln!(out, "{}", victim.announcement())?;
    writeln!(out, "{fd}")?;
    admitted()?;
    (row.run)(&fixture, victim.memory())?;
    writeln!(out, "done")?;
    admitted()?;
    if let Some(then) = row.then {
        then(&fixture)?;
        writeln!(out, "then")?;
    }
    loop {
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares [`ROWS`] with the document's table, the rows between its second and third rule.
    #[test]
    fn the_document_lists_all() {
        const DOCUMENT: &str = include_str!("../../../../../Documentation/blocking.rst");
        let mut rules = 0;
        let mut listed: Vec<Vec<String>> = Vec::new();
        for line in DOCUMENT.lines() {
            if line.starts_with("==") && line.contains("=  =") {
                rules += 1;
            } else if rules == 2 {
                let cells: Vec<_> = line.split("  ").filter(|cell| !cell.is_empty()).collect();
                listed.push(cells.iter().map(|cell| cell.trim().to_string()).collect());
            }
        }
        let table: Vec<Vec<String>> = ROWS
            .iter()
            .map(|row| {
                [row.name, row.memory, row.held]
                    .map(str::to_string)
                    .to_vec()
            })
            .collect();
        assert_eq!(table, listed);
    }
}
