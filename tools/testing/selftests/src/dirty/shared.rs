// SPDX-License-Identifier: GPL-2.0

//! A container that an `mdma` shares with a device that has an IOMMU.
//!
//! type1 pins all mapped memory for such a device, and cannot know what it writes. So it reports all of it as dirty at each
//! look, as long as the device is there.

use std::sync::Arc;

use mdma::job;
use vfio_client::{Access, Container, DmaBuffer, Group};

use crate::assert_errno;
use crate::dirty::pages::{of, rings, set, BASE, SIZE};
use crate::dma::keys::by_key;
use crate::dma::oracle::register;
use crate::env::pci_device::PciDevice;
use crate::env::pins::Pins;
use crate::env::Env;
use crate::fixture::memory::pages_of;
use crate::fixture::{guest, run_jobs, MdmaFixture, PAGE, QUEUE};
use crate::harness::result::Result;
use crate::tests;

tests! { "shared" needs [Mdma, SharedContainer]:
    p31_beside_an_iommu_all_memory_is_dirty_at_each_look ["P31"],
    p31_registered_memory_is_charged_once ["P31"],
    the_memory_of_a_device_cannot_be_mapped [],
}

const PAGES: u64 = SIZE as u64 / PAGE;

fn p31_beside_an_iommu_all_memory_is_dirty_at_each_look(env: &Env) -> Result {
    let other = PciDevice::take()?;
    let container = Container::open()?;
    let fixture = MdmaFixture::within(env, &container)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let dirty = of(&buffer);
    let page = |n: u64| BASE + n * PAGE;
    let all = set(pages_of(BASE, SIZE as u64));
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    container.dirty_start()?;
    let fill = |n: u64| job::fill(guest(page(n)), n, 8);
    run_jobs(&mut queue, &[fill(3)])?;
    assert_eq!(dirty(&container)?, set([page(3)]));

    let group = Group::open(other.iommu_group()?, &container)?;
    for look in 0..3 {
        assert_eq!(dirty(&container)?, all, "look {look}");
    }
    run_jobs(
        &mut queue,
        &[fill(4), job::crc32c(guest(BASE), SIZE as u64)],
    )?;
    assert_eq!(dirty(&container)?, all);
    // Memory that is mapped now is dirty, too, and unmapping reports all of it.
    let late = fixture.buffer(BASE * 2, SIZE)?;
    let all_of_late = set(pages_of(BASE * 2, SIZE as u64));
    assert_eq!(of(&late)(&container)?, all_of_late);
    let (unmapped, bitmap) = container.unmap_dirty(BASE * 2, SIZE as u64)?;
    assert_eq!(unmapped, SIZE as u64);
    assert_eq!(set(bitmap.dirty()), all_of_late);

    // Once more when the other is gone, because it may have written since the last look.
    drop(group);
    assert_eq!(dirty(&container)?, all);
    assert_eq!(dirty(&container)?, set([]));
    run_jobs(&mut queue, &[fill(5)])?;
    assert_eq!(dirty(&container)?, set([page(5)]));

    // And again from when it is back.
    let group = Group::open(other.iommu_group()?, &container)?;
    assert_eq!(dirty(&container)?, all);
    assert_eq!(dirty(&container)?, all);
    drop((group, late, queue));
    Ok(())
}

/// What is mapped is pinned and charged already. A registration pins it once more, and charges nothing.
fn p31_registered_memory_is_charged_once(env: &Env) -> Result {
    let other = PciDevice::take()?;
    let container = Container::open()?;
    let fixture = MdmaFixture::within(env, &container)?;
    let start = Pins::now()?;
    let _buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    let key = register(&mut queue, BASE, 16 * PAGE, true)?;
    let alone = Pins::now()?;
    let pinned = rings(&queue).len() as u64;
    assert_eq!(alone.locked, start.locked + pinned + 16);

    let group = Group::open(other.iommu_group()?, &container)?;
    let mapped = PAGES + queue.memory().memory().len() as u64 / PAGE;
    let beside = Pins::now()?;
    assert_eq!(beside.locked, start.locked + mapped);
    assert_eq!(beside.held(), start.held() + pinned + 16 + mapped);
    let more = register(&mut queue, BASE + 32 * PAGE, 32 * PAGE, true)?;
    let now = Pins::now()?;
    assert_eq!(now.locked, beside.locked, "charged twice");
    assert_eq!(now.held(), beside.held() + 32);
    run_jobs(
        &mut queue,
        &[job::copy(by_key(key, 0), by_key(more, 0), PAGE)],
    )?;

    drop(group);
    let left = Pins::now()?;
    assert_eq!(left.locked, start.locked + pinned + 48);
    assert_eq!(left.held(), start.held() + pinned + 48);
    run_jobs(
        &mut queue,
        &[
            job::copy(by_key(key, 0), by_key(more, 0), PAGE),
            job::deregister(key),
            job::deregister(more),
        ],
    )?;
    assert_eq!(Pins::now()?.locked, start.locked + pinned);
    drop(queue);
    Ok(())
}

/// An IOMMU needs pages, and a BAR of an mdev has none that can be pinned. So such devices do no peer-to-peer: neither a
/// mapping nor a device with an IOMMU can be added to the other.
fn the_memory_of_a_device_cannot_be_mapped(env: &Env) -> Result {
    let other = PciDevice::take()?;
    let container = Container::open()?;
    let fixture = MdmaFixture::within(env, &container)?;
    let _buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    let memory = Arc::new(fixture.mdma.map_memory()?);
    let at = QUEUE + (1 << 32);
    let bar = DmaBuffer::of(&container, at, memory.clone(), Access::ReadWrite)?;
    let number = other.iommu_group()?;
    assert_errno!(Group::open(number, &container).map(drop), EFAULT);
    // Nothing has changed.
    run_jobs(&mut queue, &[job::fill(guest(at), 7, 8)])?;
    assert_eq!(fixture.read_memory(0, 8)?, 7u64.to_le_bytes());
    bar.unmap()?;
    let group = Group::open(number, &container)?;
    assert_errno!(container.map(at, &memory, Access::ReadWrite), EFAULT);
    run_jobs(&mut queue, &[job::fill(guest(BASE), 7, 8)])?;
    drop((group, queue, memory));
    Ok(())
}
