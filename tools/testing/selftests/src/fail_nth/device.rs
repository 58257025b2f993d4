// SPDX-License-Identifier: GPL-2.0

//! Fault injection in operations on a device: interrupts, registers, memory, guest memory.

use std::sync::Arc;

use mdma::job;
use mdma::regs::{self, Reg};
use vfio_client::v2::State;
use vfio_client::{Access, Action, Area, DmaBuffer, EventFd, Mapping, Protection};

use crate::env::Env;
use crate::fail_nth::sweep::{done, Sweep, SHORT};
use crate::fixture::v2::MdmaV2;
use crate::fixture::{self, run_jobs};
use crate::harness::result::Result;
use crate::tests;

tests! { "fail_nth" needs [Mdma, FaultInjection]:
    device_information [],
    interrupts [],
    registers_and_configuration [],
    device_memory [],
    guest_memory [],
}

/// Checks that the device runs a job after a fault.
pub(crate) fn works(dev: &MdmaV2) -> Result {
    if dev.now()? != State::RUNNING && dev.feature.set_state(State::RUNNING).is_err() {
        dev.device.reset()?;
    }
    assert_eq!(dev.now()?, State::RUNNING);
    // A reset has cleared bus master.
    dev.device.config()?.enable()?;
    let mark = dev.mdma.get(Reg::JobsDone)?;
    let mut queue = dev.queue(2)?;
    run_jobs(&mut queue, &[job::fill(fixture::device(64), mark, 64)])?;
    assert_eq!(dev.mdma.get(Reg::JobsDone)?, mark + 1);
    queue.close()?;
    assert_eq!(dev.read_memory(64, 8)?, mark.to_le_bytes());
    Ok(())
}

/// Checks like [`works`], and also saves and loads the device.
pub(crate) fn usable(dev: &MdmaV2) -> Result {
    works(dev)?;
    let (before, memory) = (dev.registers()?, dev.read_memory(0, 4096)?);
    let saved = dev.save_v2()?;
    dev.load_v2(&saved)?;
    assert_eq!(dev.registers()?.diff(&before), []);
    assert!(dev.read_memory(0, 4096)? == memory, "memory differs");
    Ok(())
}

fn nothing() -> Result {
    Ok(())
}

fn device_information(env: &Env) -> Result {
    let dev = MdmaV2::new(env)?;
    let mut sweep = Sweep::new()?;
    let after = || works(&dev);
    let device = &dev.device;
    for index in 0..device.info().num_regions {
        if device.region(index).is_ok() {
            let name = format!("VFIO_DEVICE_GET_REGION_INFO {index}");
            sweep.over(&name, SHORT, nothing, || device.region(index), nothing)?;
        }
    }
    for index in 0..device.info().num_irqs {
        let name = format!("VFIO_DEVICE_GET_IRQ_INFO {index}");
        sweep.over(&name, SHORT, nothing, || device.irq(index), nothing)?;
    }
    sweep.over(
        "VFIO_DEVICE_FEATURE MIGRATION",
        SHORT,
        nothing,
        || device.migration_v2(),
        after,
    )?;
    sweep.over(
        "VFIO_DEVICE_FEATURE MIG_DEVICE_STATE get",
        SHORT,
        nothing,
        || dev.feature.state(),
        after,
    )?;
    sweep.over(
        "VFIO_DEVICE_FEATURE MIG_DATA_SIZE",
        SHORT,
        nothing,
        || dev.feature.data_size(),
        after,
    )?;
    sweep.over(
        "VFIO_DEVICE_RESET",
        SHORT,
        nothing,
        || device.reset(),
        || usable(&dev),
    )?;
    sweep.finish()
}

fn interrupts(env: &Env) -> Result {
    use crate::irq::msi::{ERR, INTX, MSI, MSIX, REQ};
    let dev = MdmaV2::new(env)?;
    let mut sweep = Sweep::new()?;
    let events = crate::irq::msi::events(4)?;
    let all = crate::irq::msi::all(&events);
    let after = || works(&dev);
    for (index, name, count) in [
        (INTX, "INTX", 1),
        (MSI, "MSI", 2),
        (MSIX, "MSIX", 4),
        (ERR, "ERR", 1),
        (REQ, "REQ", 1),
    ] {
        let irq = dev.device.irq(index)?;
        let off = || {
            // This fails if the index is not in use.
            let _ = irq.disable();
            Ok(())
        };
        let on = || Ok(irq.set_eventfds(0, &all[..count])?);
        let title = |what: &str| format!("VFIO_DEVICE_SET_IRQS {name} {what}");
        let set = || irq.set_eventfds(0, &all[..count]);
        sweep.over(&title("trigger eventfd"), SHORT, off, set, after)?;
        sweep.over(&title("trigger eventfd again"), SHORT, on, set, after)?;
        let fire = || irq.set_none(Action::Trigger, 0, count as u32);
        sweep.over(&title("trigger none"), SHORT, on, fire, after)?;
        let fire = || irq.set_bool(Action::Trigger, 0, &[true; 4][..count]);
        sweep.over(&title("trigger bool"), SHORT, on, fire, after)?;
        if index == INTX {
            let mask = || irq.set_none(Action::Mask, 0, 1);
            sweep.over(&title("mask none"), SHORT, on, mask, after)?;
            let mask = || irq.set_bool(Action::Mask, 0, &[true]);
            sweep.over(&title("mask bool"), SHORT, on, mask, after)?;
            let unmask = || irq.set_none(Action::Unmask, 0, 1);
            sweep.over(&title("unmask none"), SHORT, on, unmask, after)?;
            let unmask = || irq.set_bool(Action::Unmask, 0, &[true]);
            sweep.over(&title("unmask bool"), SHORT, on, unmask, after)?;
            let unset = || {
                on()?;
                Ok(irq.set_unmask_eventfd(0, None)?)
            };
            let by_eventfd = || irq.set_unmask_eventfd(0, Some(&events[1]));
            sweep.over(&title("unmask eventfd"), SHORT, unset, by_eventfd, after)?;
            let set = || {
                unset()?;
                Ok(irq.set_unmask_eventfd(0, Some(&events[1]))?)
            };
            let no_more = || irq.set_unmask_eventfd(0, None);
            sweep.over(&title("unmask eventfd -1"), SHORT, set, no_more, after)?;
        }
        sweep.over_each(
            &title("disable"),
            SHORT,
            on,
            |()| irq.disable(),
            |(), refused| {
                if refused.is_some() {
                    irq.disable()?;
                }
                usable(&dev)
            },
        )?;
    }
    drop(all);
    // Interrupts still work.
    let event = EventFd::new()?;
    dev.device.irq(INTX)?.set_eventfds(0, &[Some(&event)])?;
    dev.mdma.set_interrupts(regs::INT_ALL)?;
    let mut queue = dev.queue(2)?;
    run_jobs(&mut queue, &[job::nop().interrupt()])?;
    crate::harness::check::expect_signal(&event, "INTx after the injected faults");
    queue.close()?;
    usable(&dev)?;
    sweep.finish()
}

fn registers_and_configuration(env: &Env) -> Result {
    let dev = MdmaV2::new(env)?;
    let mut sweep = Sweep::new()?;
    let after = || works(&dev);
    let config = dev.region(vfio_client::uapi::VFIO_PCI_CONFIG_REGION_INDEX)?;
    let bar = dev.region(regs::BAR_REGISTERS)?;
    let scratch = Reg::Scratch.offset();
    for len in [1, 2, 4, 64, 256] {
        let mut bytes = [0; 256];
        sweep.over(
            &format!("read {len} of the configuration space"),
            SHORT,
            nothing,
            || done(config.pread(0, &mut bytes[..len]), len),
            after,
        )?;
    }
    for len in [1, 2, 4] {
        // The interrupt line register has no effect.
        sweep.over(
            &format!("write {len} to the configuration space"),
            SHORT,
            nothing,
            || done(config.pwrite(0x3c, &[0; 4][..len]), len),
            after,
        )?;
    }
    for len in [4, 8] {
        let mut bytes = [0; 8];
        sweep.over(
            &format!("read {len} of a register"),
            SHORT,
            nothing,
            || done(bar.pread(scratch, &mut bytes[..len]), len),
            after,
        )?;
    }
    sweep.over(
        "write 8 to a register",
        SHORT,
        nothing,
        || done(bar.pwrite(scratch, &7u64.to_ne_bytes()), 8),
        after,
    )?;
    sweep.over(
        "enable the queue",
        SHORT,
        nothing,
        || bar.write_u32(Reg::Control.offset(), 0),
        after,
    )?;
    usable(&dev)?;
    sweep.finish()
}

fn device_memory(env: &Env) -> Result {
    const LEN: usize = 64 << 10;
    let dev = MdmaV2::new(env)?;
    let mut sweep = Sweep::new()?;
    let after = || works(&dev);
    let memory = dev.region(regs::BAR_MEMORY)?;
    let mut bytes = vec![0; LEN];
    let empty = || dev.reset();
    for len in [8, LEN] {
        sweep.over(
            &format!("read {len} of device memory, holes"),
            SHORT,
            empty,
            || done(memory.pread(8, &mut bytes[..len]), len),
            after,
        )?;
    }
    for len in [8, LEN] {
        sweep.over(
            &format!("write {len} to device memory, holes"),
            SHORT,
            empty,
            || done(memory.pwrite(8, &bytes[..len]), len),
            after,
        )?;
    }
    sweep.over(
        &format!("read {LEN} of device memory"),
        SHORT,
        nothing,
        || done(memory.pread(8, &mut bytes), LEN),
        after,
    )?;
    let whole = Area {
        offset: 0,
        size: memory.info().size,
    };
    sweep.everywhere()?;
    sweep.over(
        "mmap of device memory",
        SHORT,
        nothing,
        || memory.mmap(whole, Protection::READ_WRITE),
        after,
    )?;
    // The kernel retries a page fault without memory, so the access succeeds.
    let mapping = memory.map_all()?;
    let never = |()| -> Result<(), std::io::Error> {
        mapping.touch(0);
        Ok(())
    };
    sweep.over_each(
        "read fault in device memory, hole",
        &[],
        empty,
        never,
        |(), _| after(),
    )?;
    let write = |()| -> Result<(), std::io::Error> {
        mapping.write(8192, b"8 bytes!");
        Ok(())
    };
    let written = |(), _| {
        let mut there = [0; 8];
        memory.read(8192, &mut there)?;
        assert_eq!(&there, b"8 bytes!");
        after()
    };
    sweep.over_each(
        "write fault in device memory, hole",
        &[],
        empty,
        write,
        written,
    )?;
    sweep.over_each(
        "write fault in device memory, while tracked",
        &[],
        || {
            dev.reset()?;
            mapping.write(8192, b"before..");
            drop(dev.begin(State::PRE_COPY)?);
            mapping.touch(8192);
            Ok(())
        },
        write,
        written,
    )?;
    drop(mapping);
    usable(&dev)?;
    sweep.finish()
}

fn guest_memory(env: &Env) -> Result {
    const IOVA: u64 = 0x10_0000;
    const RING: u64 = 0x20_0000;
    const LEN: usize = 64 << 10;
    let dev = MdmaV2::new(env)?;
    let mut sweep = Sweep::new()?;
    let container = &dev.container;
    let memory = Arc::new(Mapping::anonymous(LEN)?);
    memory.write(0, &job::nop().encode());
    let after = || works(&dev);
    let unmapped = || {
        container.unmap(IOVA, LEN as u64)?;
        Ok(())
    };
    let map = || container.map(IOVA, &memory, Access::ReadWrite);
    sweep.over("VFIO_IOMMU_MAP_DMA", SHORT, unmapped, map, after)?;
    let mapped = || {
        unmapped()?;
        Ok(map()?)
    };
    let unmap = || container.unmap(IOVA, LEN as u64);
    sweep.over("VFIO_IOMMU_UNMAP_DMA", SHORT, mapped, unmap, after)?;

    // The ring is pinned while the queue is enabled. The unmap unpins it.
    let enabled = || -> Result {
        dev.reset()?;
        container.unmap(RING, LEN as u64)?;
        container.map(RING, &memory, Access::ReadWrite)?;
        dev.device.config()?.enable()?;
        dev.mdma.set(Reg::RingBase, RING)?;
        dev.mdma.set(Reg::RingOrder, 2)?;
        dev.mdma.set(Reg::CompletionBase, RING + 4096)?;
        dev.mdma.set(Reg::Control, regs::CONTROL_ENABLE.into())?;
        dev.mdma.set(Reg::Tail, 1)?;
        fixture::wait_register(&dev.mdma, Reg::Head, "the job", |head| head == 1)
    };
    let unmap = || container.unmap(RING, LEN as u64);
    sweep.over(
        "VFIO_IOMMU_UNMAP_DMA of a ring",
        SHORT,
        enabled,
        unmap,
        after,
    )?;

    sweep.over(
        "VFIO_IOMMU_DIRTY_PAGES start",
        SHORT,
        || {
            enabled()?;
            Ok(container.dirty_stop()?)
        },
        || container.dirty_start(),
        || Ok(()),
    )?;
    sweep.over(
        "VFIO_IOMMU_DIRTY_PAGES get",
        SHORT,
        || {
            container.dirty_start()?;
            enabled()
        },
        || container.dirty_bitmap(RING, LEN as u64),
        || Ok(()),
    )?;
    sweep.over_each(
        "VFIO_IOMMU_UNMAP_DMA of a ring, with its bitmap",
        SHORT,
        || {
            container.dirty_start()?;
            enabled()
        },
        |()| container.unmap_dirty(RING, LEN as u64),
        |(), _| {
            // A failed call may or may not have unmapped the ring.
            container.unmap(RING, LEN as u64)?;
            usable(&dev)
        },
    )?;
    container.dirty_stop()?;
    sweep.over(
        "enable a queue, a job",
        SHORT,
        || {
            enabled()?;
            Ok(dev.mdma.disable()?)
        },
        || dev.mdma.set(Reg::Control, regs::CONTROL_ENABLE.into()),
        || {
            dev.mdma.set(Reg::Tail, 1)?;
            fixture::wait_register(&dev.mdma, Reg::Head, "the job", |head| head == 1)?;
            after()
        },
    )?;
    container.unmap(RING, LEN as u64)?;
    sweep.over(
        "DMA memory made and unmapped",
        SHORT,
        unmapped,
        || DmaBuffer::new(container, IOVA, LEN),
        after,
    )?;
    usable(&dev)?;
    sweep.finish()
}
