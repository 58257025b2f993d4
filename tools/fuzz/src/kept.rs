// SPDX-License-Identifier: GPL-2.0

//! An instance and its descriptors, kept open from program to program.
//!
//! Most programs begin with the same calls, and creating, opening, closing and removing an instance costs as much as
//! all other calls of a program. If a program has left the instance open as it began, the next one gets it after a reset.

use std::os::fd::AsFd;
use std::sync::Arc;

use vfio_client::{Container, Device, Group, Node};

use crate::domain::CLOSABLE;
use crate::generate::opening;
use crate::grammar::Op;
use crate::health;
use crate::program::{Call, Program};
use crate::samples::Sample;
use crate::world::{uuid, World};

/// The first calls of [`opening`], whose results are kept. The others map memory and enable DMA.
pub(crate) const CALLS: usize = 6;

/// The VFIO ioctl `VFIO_IOMMU_DIRTY_PAGES`, and its flag to stop.
const DIRTY_PAGES: (u32, u32) = (17, 2);
/// The VFIO ioctl `VFIO_DEVICE_SET_IRQS`, and its flags to disable an index: no data, trigger.
const SET_IRQS: (u32, u32) = (10, 0x21);
/// The number of interrupt indexes of a PCI device.
const INDEXES: u32 = 5;

/// What is kept.
pub(crate) struct Kept {
    sample: Sample,
    container: Arc<Node>,
    group: Arc<Node>,
    device: Arc<Node>,
}

/// Returns the device whose kept instance would replace the first calls of a program.
fn begins(program: &Program) -> Option<Sample> {
    let begins = |sample: &Sample| program.calls.starts_with(opening(*sample));
    Sample::ALL.into_iter().find(begins)
}

/// Returns the device whose instance a program leaves open that it began with.
pub(crate) fn leaves(program: &Program) -> Option<Sample> {
    let sample = begins(program)?;
    let rest = &program.calls[opening(sample).len()..];
    (!rest.iter().any(disturbs)).then_some(sample)
}

/// Returns whether a call may close, replace or move one of the descriptors, or remove the instance.
fn disturbs(call: &Call) -> bool {
    let a = &call.args;
    match call.op {
        Op::Close => {
            let what = CLOSABLE[(a[0] % CLOSABLE.len() as u64) as usize];
            matches!(what, "container" | "group" | "device") && a[1] == 0
        }
        Op::Container | Op::Group | Op::Device | Op::Attach | Op::Detach | Op::Iommu => a[0] == 0,
        Op::ContainerIoctl | Op::GroupIoctl | Op::Remove => a[0] == 0,
        Op::Die => true,
        _ => false,
    }
}

impl Kept {
    /// Takes it out of the slots of a program that has ended.
    pub(crate) fn take(sample: Sample, world: &World) -> Option<Self> {
        let kept = Kept {
            sample,
            container: world.containers.get(0)?,
            group: world.groups.get(0)?,
            device: world.devices.get(0)?,
        };
        world.containers.take(0);
        world.groups.take(0);
        world.devices.take(0);
        Some(kept)
    }

    /// Returns whether it replaces the first calls of a program.
    pub(crate) fn begins(&self, program: &Program) -> bool {
        begins(program) == Some(self.sample)
    }

    /// Puts it into the slots of the next program.
    pub(crate) fn put(self, world: &World) {
        world.containers.put(0, self.container);
        world.groups.put(0, self.group);
        world.devices.put(0, self.device);
    }

    /// Resets it and checks that it works. Call this when everything else of the program is closed.
    pub(crate) fn renew(&self) -> Result<(), String> {
        let (container, device) = self.handles().map_err(|e| e.to_string())?;
        container.unmap_all().map_err(|e| e.to_string())?;
        // Fails if the program has not started it.
        let _ = call(&self.container, DIRTY_PAGES, &[]);
        for index in 0..INDEXES {
            // Fails for an index that the device does not have.
            let _ = call(&self.device, SET_IRQS, &[index, 0, 0]);
        }
        health::works(self.sample, &container, &device)?;
        device.reset().map_err(|e| e.to_string())
    }

    fn handles(&self) -> vfio_client::Result<(Container, Device)> {
        let copy = |node: &Node| node.as_fd().try_clone_to_owned();
        let of = |e: std::io::Error| vfio_client::Error::new("duplicate a descriptor", e);
        let container = Container::from_fd(copy(&self.container).map_err(of)?);
        // The number is only for messages.
        let group = Group::from_fd(copy(&self.group).map_err(of)?, 0, &container);
        let device = group.device(uuid(0).as_str())?;
        Ok((container, device))
    }
}

/// Makes an ioctl with `argsz`, `flags` and some numbers.
fn call(node: &Node, (number, flags): (u32, u32), rest: &[u32]) -> std::io::Result<i32> {
    let size = 4 * (2 + rest.len()) as u32;
    let words = [&[size, flags], rest].concat();
    let mut argument: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    node.ioctl(number, &mut argument)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(sample: Sample, rest: &str) -> Program {
        let opening = Program {
            calls: opening(sample).to_vec(),
        };
        format!("{opening}{rest}").parse().unwrap()
    }

    #[test]
    fn the_kept_calls_end_with_the_device() {
        for sample in Sample::ALL {
            let ops: Vec<_> = opening(sample)[..CALLS].iter().map(|c| c.op).collect();
            assert_eq!(ops.first(), Some(&Op::Create));
            assert_eq!(ops.last(), Some(&Op::Device));
            assert!(opening(sample).iter().all(|call| call.thread.is_none()));
            assert_eq!(begins(&program(sample, "")), Some(sample));
        }
    }

    #[test]
    fn what_stays_open() {
        for sample in Sample::ALL {
            for rest in [
                "",
                "reset d0\nclose device 0x1\ncreate i1 mdma-16M\ndevice d1 g1 i1\n",
                "1| doorbell d0 0x2\n2| unmap c0 0x2 0x0 0x0\n",
            ] {
                assert_eq!(leaves(&program(sample, rest)), Some(sample), "{rest}");
            }
        }
    }

    #[test]
    fn what_does_not() {
        for last in [
            "close device 0x0",
            "1| close group 0x0",
            "remove i0",
            "device d0 g0 i0",
            "detach g0",
            "die",
        ] {
            assert_eq!(leaves(&program(Sample::Mdma, last)), None, "{last}");
        }
        assert_eq!(leaves(&"reset d0\n".parse().unwrap()), None);
        let other = program(Sample::Mdma, "").to_string();
        let other = other.replace("mdma-16M", "mdma-256M");
        assert_eq!(begins(&other.parse().unwrap()), None);
    }
}
