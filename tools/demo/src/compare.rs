// SPDX-License-Identifier: GPL-2.0

//! Byte-for-byte comparison of two machines, or of a machine with the expected contents.

use mdma::{Place, World};
use vfio_client::{Device, Region};

use crate::error::{fail, Result};
use crate::machine::Machine;

const STEP: usize = 1 << 20;

/// What was compared, and is equal.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Compared {
    /// Number of registers.
    pub(crate) registers: usize,
    /// Bytes of configuration space.
    pub(crate) config: usize,
    /// Bytes of device memory.
    pub(crate) device_memory: u64,
    /// Bytes of guest memory.
    pub(crate) guest_memory: u64,
}

/// Compares two machines whose devices are stopped.
pub(crate) fn machines(a: &Machine, b: &Machine) -> Result<Compared> {
    let (here, there) = (a.mdma()?.snapshot()?, b.mdma()?.snapshot()?);
    if let Some((name, source, destination)) = here.diff(&there).first() {
        fail!(
            "register {name} is {source:#x} at the source and {destination:#x} at the destination"
        );
    }
    let config = config(&a.device, &b.device)?;
    let size = a.memory_region.info().size;
    chunks(size, |at, len| {
        let (x, y) = (
            read(&a.memory_region, at, len)?,
            read(&b.memory_region, at, len)?,
        );
        differ("device memory", at, &x, &y)
    })?;
    for (x, y) in a.ranges().zip(b.ranges()) {
        chunks(x.len() as u64, |at, len| {
            let (left, right) = (
                x.memory().to_vec(at as usize, len),
                y.memory().to_vec(at as usize, len),
            );
            differ("guest memory", x.iova() + at, &left, &right)
        })?;
    }
    Ok(Compared {
        registers: here.iter().count(),
        config,
        device_memory: size,
        guest_memory: a.ram_size(),
    })
}

/// Compares the configuration space of two devices; returns its size in bytes.
pub(crate) fn config(a: &Device, b: &Device) -> Result<usize> {
    let (here, there) = (a.config()?.snapshot()?, b.config()?.snapshot()?);
    if let Some((at, (x, y))) = first_difference(here.bytes(), there.bytes()) {
        fail!("configuration byte {at:#x} is {x:#x} at the source and {y:#x} at the destination");
    }
    Ok(here.bytes().len())
}

/// Compares the device memory and the guest memory for data with what the workload expects.
pub(crate) fn world(machine: &Machine, world: &World) -> Result<()> {
    chunks(machine.memory_region.info().size, |at, len| {
        let found = read(&machine.memory_region, at, len)?;
        let expected = world.read(Place::Device(at), len);
        differ("device memory", at, &expected, &found)
    })?;
    for ram in &machine.ram {
        chunks(ram.len() as u64, |at, len| {
            let iova = ram.iova() + at;
            let found = ram.memory().to_vec(at as usize, len);
            let expected = world.read(Place::Guest(iova), len);
            differ("guest memory", iova, &expected, &found)
        })?;
    }
    Ok(())
}

/// Checks that device memory reads 0 throughout.
pub(crate) fn empty(machine: &Machine) -> Result<()> {
    chunks(machine.memory_region.info().size, |at, len| {
        let found = read(&machine.memory_region, at, len)?;
        differ("device memory", at, &vec![0; len], &found)
    })
}

fn read(region: &Region, at: u64, len: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; len];
    region.read(at, &mut out)?;
    Ok(out)
}

pub(crate) fn chunks(size: u64, mut each: impl FnMut(u64, usize) -> Result<()>) -> Result<()> {
    for at in (0..size).step_by(STEP) {
        each(at, (STEP as u64).min(size - at) as usize)?;
    }
    Ok(())
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<(usize, (u8, u8))> {
    if a == b {
        return None;
    }
    let pairs = a.iter().copied().zip(b.iter().copied());
    pairs.enumerate().find(|(_, (x, y))| x != y)
}

pub(crate) fn differ(what: &str, at: u64, expected: &[u8], found: &[u8]) -> Result<()> {
    match first_difference(expected, found) {
        None => Ok(()),
        Some((offset, (x, y))) => {
            let at = at + offset as u64;
            fail!("{what} at {at:#x} is {y:#04x}, expected {x:#04x}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_that_differs_is_named() {
        let e = differ("device memory", 0x1000, &[1, 2, 3], &[1, 2, 4]).unwrap_err();
        assert_eq!(e.0, "device memory at 0x1002 is 0x04, expected 0x03");
        assert!(differ("x", 0, &[1], &[1]).is_ok());
    }

    #[test]
    fn chunks_cover_all() {
        let mut seen = 0;
        chunks(3 * STEP as u64 + 5, |at, len| {
            assert_eq!(at, seen);
            seen += len as u64;
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, 3 * STEP as u64 + 5);
    }
}
