// SPDX-License-Identifier: GPL-2.0

//! Configuration space.

use mdma::regs::{self, Reg};
use vfio_client::pci::{self, capability, offset};
use vfio_client::Region;

use crate::env::{Env, LARGE, MEDIUM, SMALL};
use crate::fixture::every_state::in_every_state;
use crate::fixture::{self, Fixture, MdmaFixture};
use crate::harness::check::{expect_refusal, SILENCE};
use crate::harness::result::Result;
use crate::tests;

tests! { "config":
    power_on_bytes [] needs [Mdma],
    bars_are_sized_by_the_protocol [] needs [Mdma],
    upper_half_sizes_by_itself [] needs [Mdma],
    capability_list [] needs [Mdma],
    only_writable_bits_change [] needs [Mdma],
    every_access_width_sees_the_same_bytes [] needs [Mdma],
    every_bar_has_the_size_of_its_region [],
    capabilities_match_interrupts [],
    identity_is_read_only [],
    outside_is_refused [],
    closing_puts_it_back [],
    bus_master_off_stops_dma [] needs [Mdma],
    bus_master_on_resumes_pending_work [] needs [Mdma],
    status_shows_the_interrupt [] needs [Mdma],
    p52_read_and_written_in_every_state ["P52"],
}

const SIZE: usize = pci::SIZE;

/// The offsets of the capabilities.
const MSI: usize = 0x40;
const MSIX: usize = 0x50;

/// The bytes other than 0 at power-on, from the reference manual and not from the driver: offset and bytes.
const POWER_ON: &[(usize, &[u8])] = &[
    (0x00, &[0x44, 0x4d]),
    (0x02, &[0x01, 0x00]),
    // Status: capability list.
    (0x06, &[0x10, 0x00]),
    // Revision, interface, subclass, class.
    (0x08, &[0x03, 0x00, 0x00, 0x12]),
    // BAR 2: 64 bits, prefetchable.
    (0x18, &[0x0c]),
    (0x2c, &[0x44, 0x4d, 0x01, 0x00]),
    (0x34, &[0x40]),
    // Pin A.
    (0x3d, &[0x01]),
    // MSI: next capability, 64 bits, four vectors.
    (MSI, &[0x05, 0x50, 0x84, 0x00]),
    // MSI-X: last capability, four vectors, table at offset 0 of BAR 4, then the pending bits.
    (MSIX, &[0x11, 0x00, 0x03, 0x00]),
    (MSIX + 4, &[0x04, 0x00, 0x00, 0x00]),
    (MSIX + 8, &[0x04, 0x08, 0x00, 0x00]),
];

/// The bits that a write changes, for the smallest type.
const WRITABLE: &[(usize, &[u8])] = &[
    // Command: I/O, memory, bus master, INTx disable.
    (0x04, &[0x07, 0x04]),
    (0x0c, &[0xff]),
    (0x10, &[0x00, 0xf0, 0xff, 0xff]),
    (0x18, &[0x00, 0x00, 0x00, 0xff]),
    (0x1c, &[0xff, 0xff, 0xff, 0xff]),
    (0x20, &[0x00, 0xf0, 0xff, 0xff]),
    (0x3c, &[0xff]),
    // MSI: enable and the number of vectors, address, data.
    (MSI + 2, &[0x71]),
    (
        MSI + 4,
        &[0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    ),
    // MSI-X: enable and mask.
    (MSIX + 3, &[0xc0]),
];

fn table(rows: &[(usize, &[u8])]) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    for (at, row) in rows {
        bytes[*at..at + row.len()].copy_from_slice(row);
    }
    bytes
}

/// Reads all configuration space at once.
fn all(config: &Region) -> Result<[u8; SIZE]> {
    let mut bytes = [0; SIZE];
    config.read(0, &mut bytes)?;
    Ok(bytes)
}

/// Compares byte by byte and names the first difference.
#[track_caller]
fn assert_bytes(found: &[u8; SIZE], expected: &[u8; SIZE], when: &str) {
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(
            found, expected,
            "{when}: byte {at:#x} is {found:#04x}, not {expected:#04x}"
        );
    }
}

fn power_on_bytes(env: &Env) -> Result {
    for of in [SMALL, MEDIUM, LARGE] {
        let guest = env.open(of)?;
        let config = guest.device.config()?;
        assert_bytes(&all(config.region())?, &table(POWER_ON), of);
        assert_eq!(config.ids()?, (regs::PCI_VENDOR, regs::PCI_DEVICE));
    }
    Ok(())
}

fn bars_are_sized_by_the_protocol(env: &Env) -> Result {
    for (of, memory) in [(SMALL, 16u64 << 20), (MEDIUM, 256 << 20), (LARGE, 1 << 30)] {
        let guest = env.open(of)?;
        let config = guest.device.config()?;
        let config = config.region();
        let bar = |i: u64| offset::BAR0 + 4 * i;
        for i in 0..6 {
            config.write_u32(bar(i), !0)?;
        }
        let read = |i| config.read_u32(bar(i));
        assert_eq!(read(0)?, 0xffff_f000, "{of} BAR 0: 4 KiB, 32 bits");
        assert_eq!(read(1)?, 0, "{of} BAR 1: none");
        let low = read(2)?;
        let size = (u64::from(read(3)?) << 32) | u64::from(low & !0xf);
        assert_eq!(low & 0xf, 0xc, "{of} BAR 2: 64 bits, prefetchable");
        assert_eq!((!size).wrapping_add(1), memory, "{of} BAR 2 and 3");
        assert_eq!(read(4)?, 0xffff_f000, "{of} BAR 4: 4 KiB, 32 bits");
        assert_eq!(read(5)?, 0, "{of} BAR 5: none");
        for (i, region) in [(0, 0), (2, 2), (4, 4)] {
            let size = guest.region(region)?.info().size;
            assert!(size.is_power_of_two(), "region of BAR {i}");
        }

        // The BARs keep the addresses that a guest writes, aligned to the size.
        config.write_u32(bar(0), 0xfebf_1000)?;
        config.write_u32(bar(2), 0x4000_0000)?;
        config.write_u32(bar(3), 0x12)?;
        config.write_u32(bar(4), 0xfebf_2fff)?;
        assert_eq!(read(0)?, 0xfebf_1000);
        assert_eq!((read(2)?, read(3)?), (0x4000_000c, 0x12));
        assert_eq!(read(4)?, 0xfebf_2000);
    }
    Ok(())
}

/// A guest may size each half of a 64-bit BAR separately, with the other half in use.
fn upper_half_sizes_by_itself(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    let config = guest.device.config()?;
    let config = config.region();
    config.write_u32(0x18, 0x4000_0000)?;
    config.write_u32(0x1c, 0x8)?;
    config.write_u32(0x18, !0)?;
    assert_eq!(config.read_u32(0x18)?, 0xff00_000c);
    assert_eq!(config.read_u32(0x1c)?, 0x8);
    config.write_u32(0x18, 0x4000_0000)?;
    config.write_u32(0x1c, !0)?;
    assert_eq!(config.read_u32(0x18)?, 0x4000_000c);
    assert_eq!(config.read_u32(0x1c)?, !0);
    Ok(())
}

fn capability_list(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    let bytes = all(guest.device.config()?.region())?;
    assert_ne!(
        bytes[offset::STATUS as usize] & 0x10,
        0,
        "status: capability list"
    );
    let mut found = Vec::new();
    let mut at = bytes[offset::CAPABILITIES as usize];
    while at != 0 {
        assert!(at >= 0x40 && at % 4 == 0, "a capability at {at:#x}");
        assert!(found.len() < 48, "the list loops");
        found.push((bytes[usize::from(at)], usize::from(at)));
        at = bytes[usize::from(at) + 1];
    }
    assert_eq!(found, [(capability::MSI, MSI), (capability::MSIX, MSIX)]);

    // The capabilities match the interrupts and the BAR.
    let msi_vectors = 1u32 << ((bytes[MSI + 2] >> 1) & 7);
    assert_eq!(msi_vectors, guest.device.irq(1)?.info().count);
    let flags = u16::from_le_bytes([bytes[MSIX + 2], bytes[MSIX + 3]]);
    let vectors = u32::from(flags & 0x7ff) + 1;
    assert_eq!(vectors, guest.device.irq(2)?.info().count);
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    for (name, value, len) in [
        ("table", word(MSIX + 4), 16 * vectors),
        ("pending bits", word(MSIX + 8), 8),
    ] {
        let (bar, start) = (value & 7, value & !7);
        assert_eq!(bar, regs::BAR_MSIX, "{name}");
        let size = guest.region(bar)?.info().size;
        assert!(u64::from(start + len) <= size, "{name} is outside its BAR");
    }
    Ok(())
}

/// Writes ones, zeros and patterns to all bits, with each width.
fn only_writable_bits_change(env: &Env) -> Result {
    let writable = table(WRITABLE);
    let reset = table(POWER_ON);
    for width in [1, 2, 4, 8, 256] {
        let guest = env.open(SMALL)?;
        let config = guest.device.config()?;
        let config = config.region();
        for pattern in [0xff, 0x00, 0xa5, 0x5a] {
            for at in (0..SIZE).step_by(width) {
                config.write(at as u64, &vec![pattern; width])?;
            }
            let mut expected = reset;
            for (byte, mask) in expected.iter_mut().zip(writable) {
                *byte = *byte & !mask | pattern & mask;
            }
            let when = format!("{pattern:#04x} written in units of {width} bytes");
            assert_bytes(&all(config)?, &expected, &when);
        }
    }
    Ok(())
}

fn every_access_width_sees_the_same_bytes(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    let config = guest.device.config()?;
    let config = config.region();
    config.write_u32(MSI as u64 + 8, 0x1234_5678)?;
    let bytes = all(config)?;
    for len in [1, 2, 3, 4, 5, 8, 16, 255] {
        for at in 0..=SIZE - len {
            let mut found = vec![0; len];
            config.read(at as u64, &mut found)?;
            assert_eq!(found, bytes[at..at + len], "{len} bytes at {at:#x}");
        }
    }
    // A write across fields: the last byte of the MSI address and the first two bytes of its data.
    config.write(MSI as u64 + 0xb, &[0xab, 0xcd, 0xef])?;
    assert_eq!(config.read_u32(MSI as u64 + 8)?, 0xab34_5678);
    assert_eq!(config.read_u32(MSI as u64 + 12)?, 0xefcd);
    Ok(())
}

/// Writes ones to each BAR register, as a guest does, and compares the size with that of the region.
fn every_bar_has_the_size_of_its_region(env: &Env) -> Result {
    let guest = env.open_subject()?;
    let config = guest.device.config()?;
    let config = config.region();
    let mut index = 0;
    let mut found = 0;
    while index < 6 {
        let at = offset::BAR0 + 4 * u64::from(index);
        let size = guest.region(index)?.info().size;
        config.write_u32(at, !0)?;
        let low = config.read_u32(at)?;
        if low == 0 {
            assert_eq!(size, 0, "BAR {index} is not implemented");
            index += 1;
            continue;
        }
        found += 1;
        let io = low & 1 != 0;
        let wide = !io && low & 0b110 == 0b100;
        let mask = u64::from(low & if io { !0x3 } else { !0xf });
        let (mask, ones) = if wide {
            config.write_u32(at + 4, !0)?;
            let high = u64::from(config.read_u32(at + 4)?) << 32;
            (mask | high, u64::MAX)
        } else {
            (mask, u64::from(u32::MAX))
        };
        assert_eq!((!mask & ones) + 1, size, "BAR {index}");
        assert!(size.is_power_of_two(), "BAR {index}: {size:#x}");
        // It keeps an address that is aligned to the size, and its type bits.
        let address = size.max(0x1000) as u32 & if wide { 0 } else { !0 };
        config.write_u32(at, address)?;
        let kind = low & if io { 0x3 } else { 0xf };
        assert_eq!(config.read_u32(at)?, address | kind, "BAR {index}");
        index += if wide { 2 } else { 1 };
    }
    assert!(found > 0, "a device without BARs");
    Ok(())
}

/// Each capability is aligned, and the list ends.
fn capabilities_match_interrupts(env: &Env) -> Result {
    let guest = env.open_subject()?;
    let bytes = all(guest.device.config()?.region())?;
    let mut found = Vec::new();
    let mut at = match bytes[offset::STATUS as usize] & 0x10 {
        0 => 0,
        _ => bytes[offset::CAPABILITIES as usize],
    };
    while at != 0 {
        assert!(at >= 0x40 && at % 4 == 0, "a capability at {at:#x}");
        assert!(found.len() < 48, "the list loops");
        found.push((bytes[usize::from(at)], usize::from(at)));
        at = bytes[usize::from(at) + 1];
    }
    let place = |id| found.iter().find(|(i, _)| *i == id).map(|(_, at)| *at);
    let msi = place(capability::MSI).map_or(0, |at| 1u32 << ((bytes[at + 2] >> 1) & 7));
    assert_eq!(msi, guest.device.irq(1)?.info().count, "MSI vectors");
    let msix = place(capability::MSIX).map_or(0, |at| {
        let flags = u16::from_le_bytes([bytes[at + 2], bytes[at + 3]]);
        u32::from(flags & 0x7ff) + 1
    });
    assert_eq!(msix, guest.device.irq(2)?.info().count, "MSI-X vectors");
    let pin = u32::from(bytes[offset::INTERRUPT_PIN as usize] != 0);
    assert_eq!(pin, guest.device.irq(0)?.info().count, "INTx");
    Ok(())
}

/// Identity, class and the places of capabilities stay, whatever is written.
fn identity_is_read_only(env: &Env) -> Result {
    let guest = env.open_subject()?;
    let config = guest.device.config()?;
    let config = config.region();
    let before = all(config)?;
    for width in [1, 2, 4, 8, 256] {
        for pattern in [0xff, 0x00, 0xa5, 0x5a] {
            for at in (0..SIZE).step_by(width) {
                config.write(at as u64, &vec![pattern; width])?;
            }
            let now = all(config)?;
            for at in [
                0, 1, 2, 3, 8, 9, 10, 11, 0x0e, 0x2c, 0x2d, 0x2e, 0x2f, 0x34, 0x3d,
            ] {
                assert_eq!(now[at], before[at], "byte {at:#x} after {pattern:#x}");
            }
        }
    }
    // Each width reads the same bytes.
    let bytes = all(config)?;
    for len in [1, 2, 3, 4, 5, 8, 16, 255] {
        for at in 0..=SIZE - len {
            let mut found = vec![0; len];
            config.read(at as u64, &mut found)?;
            assert_eq!(found, bytes[at..at + len], "{len} bytes at {at:#x}");
        }
    }
    Ok(())
}

fn outside_is_refused(env: &Env) -> Result {
    let guest = env.open_subject()?;
    let config = guest.device.config()?;
    let config = config.region();
    let before = all(config)?;
    for (at, len) in [
        (256, 1),
        (255, 2),
        (253, 4),
        (249, 8),
        (0, 257),
        (1, 256),
        (1 << 39, 4),
    ] {
        let what = format!("{len} bytes at {at:#x}");
        let mut bytes = vec![0xff; len];
        expect_refusal(env, guest.uuid(), libc::EINVAL, "outside", &what, || {
            config.pread(at, &mut bytes)
        });
        assert_eq!(
            bytes,
            vec![0xff; len],
            "{what}: a refused read returned bytes"
        );
        expect_refusal(env, guest.uuid(), libc::EINVAL, "outside", &what, || {
            config.pwrite(at, &bytes)
        });
        assert_bytes(&all(config)?, &before, &what);
    }
    // Accesses up to the end succeed.
    config.read_u8(255)?;
    config.write(0, &before)?;
    assert_bytes(&all(config)?, &before, "its own bytes written back");
    Ok(())
}

fn closing_puts_it_back(env: &Env) -> Result {
    let guest = env.open_subject()?;
    let config = guest.device.config()?;
    let power_on = all(config.region())?;
    config.region().write(0, &[0xff; SIZE])?;
    assert_ne!(all(config.region())?, power_on);
    drop(config);
    let guest = crate::env::Guest::open(guest.close())?;
    let config = guest.device.config()?;
    assert_bytes(&all(config.region())?, &power_on, "opened again");
    Ok(())
}

/// The memory that a slow job writes.
const IOVA: u64 = 0x10_0000;
const BYTES: usize = 4 << 20;

fn bus_master_off_stops_dma(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let config = fixture.device.config()?;
    let buffer = fixture.buffer(IOVA, BYTES)?;
    let mut queue = fixture.queue(4)?;
    fixture.mdma.set_throttle(20_000)?;
    queue.submit(&mdma::job::fill(fixture::guest(IOVA), !0, BYTES as u64))?;
    let written = || buffer.to_vec(0, BYTES).iter().filter(|b| **b != 0).count();
    for round in 0..5 {
        let before = fixture.mdma.get(Reg::BytesDone)?;
        fixture::wait_register(&fixture.mdma, Reg::BytesDone, "the job to continue", |v| {
            v > before
        })?;
        config.set_bus_master(false)?;
        // When the write returns, no DMA is in flight, and none follows.
        let at_return = (fixture.mdma.get(Reg::BytesDone)?, written());
        assert!(
            at_return.1 < BYTES,
            "round {round}: the job finished too early"
        );
        assert_eq!(
            at_return.0, at_return.1 as u64,
            "round {round}: BYTES_DONE and memory"
        );
        std::thread::sleep(SILENCE);
        let later = (fixture.mdma.get(Reg::BytesDone)?, written());
        assert_eq!(later, at_return, "round {round}: DMA without bus mastering");
        config.set_bus_master(true)?;
    }
    fixture.mdma.set_throttle(0)?;
    let completion = queue.wait(crate::harness::check::PATIENCE)?;
    assert_eq!((completion.error, completion.bytes), (0, BYTES as u64));
    assert_eq!(written(), BYTES);
    Ok(())
}

fn bus_master_on_resumes_pending_work(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let config = fixture.device.config()?;
    let buffer = fixture.buffer(IOVA, 65536)?;
    let mut queue = fixture.queue(4)?;
    config.set_bus_master(false)?;
    for i in 0..8 {
        let at = fixture::guest(IOVA + i * 4096);
        queue.submit(&mdma::job::fill(at, i + 1, 4096).cookie(i))?;
    }
    std::thread::sleep(SILENCE);
    assert!(
        queue.poll().is_none(),
        "the device ran a job without bus mastering"
    );
    assert_eq!(fixture.mdma.get(Reg::Head)?, 0);
    assert!(buffer.to_vec(0, 65536).iter().all(|b| *b == 0));

    // Other bits of the command register do not start the job.
    config.set_command(!pci::COMMAND_MASTER)?;
    std::thread::sleep(SILENCE);
    assert!(queue.poll().is_none());

    config.set_bus_master(true)?;
    let done = queue.drain(crate::harness::check::PATIENCE)?;
    let cookies: Vec<_> = done.iter().map(|c| (c.cookie, c.error)).collect();
    assert_eq!(cookies, (0..8).map(|i| (i, 0)).collect::<Vec<_>>());
    for i in 0..8 {
        assert_eq!(buffer.to_vec(i * 4096, 1), [i as u8 + 1]);
    }
    Ok(())
}

fn status_shows_the_interrupt(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let config = fixture.device.config()?;
    let interrupt =
        || -> Result<bool> { Ok(config.region().read_u16(offset::STATUS)? & (1 << 3) != 0) };
    assert!(!interrupt()?);
    let mut queue = fixture.queue(2)?;
    fixture::run_jobs(&mut queue, &[mdma::job::nop().interrupt()])?;
    assert!(!interrupt()?, "the cause is masked");
    fixture.mdma.set_interrupts(regs::INT_COMPLETION)?;
    assert!(interrupt()?, "the cause is pending and not masked");
    // Disabling INTx blocks the signal, but not the status bit.
    config.set_command(config.command()? | pci::COMMAND_INTX_DISABLE)?;
    assert!(interrupt()?);
    fixture.mdma.acknowledge()?;
    assert!(!interrupt()?);
    Ok(())
}

fn p52_read_and_written_in_every_state(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let config = fixture.device.config()?;
    let can_master = config.command()? & pci::COMMAND_MASTER != 0;
    let mut n = 0;
    in_every_state(&fixture, |state| {
        n += 1;
        let line = 0x20 + n;
        config.region().write_u8(offset::INTERRUPT_LINE, line)?;
        assert_eq!(
            config.region().read_u8(offset::INTERRUPT_LINE)?,
            line,
            "in state {state}"
        );
        // A device without DMA is no bus master.
        let master = can_master && n % 2 == 0;
        config.set_bus_master(master)?;
        assert_eq!(
            config.command()? & pci::COMMAND_MASTER != 0,
            master,
            "in state {state}"
        );
        // QEMU restores all configuration space at once.
        let snapshot = config.snapshot()?;
        config.restore(&snapshot)?;
        assert_eq!(config.snapshot()?, snapshot, "in state {state}");
        Ok(())
    })
}
