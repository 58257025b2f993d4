// SPDX-License-Identifier: GPL-2.0

//! Guest and device memory together with what they must contain.

use std::sync::Arc;

use mdma::{Descriptor, Place, World};
use vfio_client::{Access, DmaBuffer, Mapping};

use crate::outcome::Outcome;
use crate::scene::{device, guest, Scene, VfioQueue, PAGE};

/// Some guest memory, the beginning of device memory, and a copy of both on which the oracle does what the device is
/// told to do.
pub(crate) struct Memory {
    /// What is mapped, in the order of mapping.
    pub(crate) buffers: Vec<DmaBuffer>,
    /// How much of device memory is looked at.
    pub(crate) device_len: usize,
    /// What all of it must contain.
    pub(crate) world: World,
}

impl Memory {
    /// Nothing of the guest, `device_len` bytes of a device whose memory reads 0.
    pub(crate) fn new(scene: &Scene, device_len: usize) -> Self {
        Memory {
            buffers: Vec::new(),
            device_len,
            world: World::new(scene.mdma.memory_size()),
        }
    }

    /// Maps memory of random contents at an IOVA.
    pub(crate) fn map(
        &mut self,
        scene: &Scene,
        rng: &mut fastrand::Rng,
        iova: u64,
        size: usize,
    ) -> Outcome {
        let memory = Arc::new(Mapping::anonymous(size)?);
        let buffer = DmaBuffer::of(&scene.container, iova, memory, Access::ReadWrite)?;
        let bytes = random_bytes(rng, size);
        buffer.write(0, &bytes);
        self.world.write(guest(iova), &bytes);
        self.buffers.push(buffer);
        Ok(())
    }

    /// Gives the looked-at part of device memory random contents.
    pub(crate) fn fill_device(&mut self, scene: &Scene, rng: &mut fastrand::Rng) -> Outcome {
        let bytes = random_bytes(rng, self.device_len);
        scene.write_memory(0, &bytes)?;
        self.world.write(device(0), &bytes);
        Ok(())
    }

    /// Does a job on the device and on the copy, and compares what they say of it.
    pub(crate) fn run(&mut self, queue: &mut VfioQueue, job: &Descriptor) -> Outcome {
        queue.submit(job)?;
        let completion = queue.wait(crate::check::PATIENCE)?;
        if let Err(why) = self.world.apply(job).check(&completion) {
            crate::fail!("{job:?}: {why}");
        }
        Ok(())
    }

    /// Compares all memory with the copy; `when` is for the message.
    #[track_caller]
    pub(crate) fn check(&self, scene: &Scene, when: &str) -> Outcome {
        for buffer in &self.buffers {
            let found = buffer.to_vec(0, buffer.memory().len());
            let expected = self.world.read(guest(buffer.iova()), found.len());
            same(&found, &expected, guest(buffer.iova()), when);
        }
        let found = scene.read_memory(0, self.device_len)?;
        let expected = self.world.read(device(0), found.len());
        same(&found, &expected, device(0), when);
        Ok(())
    }
}

/// Panics where two contents differ, and says where first.
#[track_caller]
pub(crate) fn same(found: &[u8], expected: &[u8], at: Place, when: &str) {
    assert_eq!(found.len(), expected.len(), "{when}");
    let differs = |(a, b): (&u8, &u8)| a != b;
    if let Some(first) = found.iter().zip(expected).position(differs) {
        let count = found.iter().zip(expected).filter(|(a, b)| a != b).count();
        panic!(
            "{when}: {at:?} differs in {count} bytes, the first is {first:#x}: {:#04x} instead of {:#04x}",
            found[first], expected[first]
        );
    }
}

/// Random bytes.
pub(crate) fn random_bytes(rng: &mut fastrand::Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

/// The IOVAs of the pages that a range touches.
pub(crate) fn pages_of(iova: u64, len: u64) -> impl Iterator<Item = u64> {
    let first = iova / PAGE;
    let last = if len == 0 {
        first
    } else {
        (iova + (len - 1)) / PAGE + 1
    };
    (first..last).map(|page| page * PAGE)
}
