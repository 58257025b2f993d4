// SPDX-License-Identifier: GPL-2.0

//! The registers in BAR 0, compared with the table that declares them, and the MSI-X BAR.

use mdma::desc::Error;
use mdma::regs::{self, Access, Reg, Register, Reset, REGISTERS};
use mdma::Mdma;
use vfio_client::{Area, Protection, Region};

use crate::env::{Env, Guest, LARGE, MEDIUM, SMALL};
use crate::fixture::{self, MdmaFixture};
use crate::harness::check::{expect_no_line, expect_refusal};
use crate::harness::result::Result;
use crate::pci::refused;
use crate::pci::refused::expect_refused;
use crate::{assert_refused, note, tests};

tests! { "bar" needs [Mdma]:
    registers_hold_their_reset_values [],
    no_access_fails [],
    no_access_to_memory_or_msix_fails [],
    registers_have_no_room_for_wide_accesses [],
    registers_are_little_endian_halves [],
    read_only_registers_refuse_writes [],
    writable_registers_keep_values [],
    reserved_bits_are_refused [],
    queue_registers_are_locked_while_enabled [],
    illegal_rings_are_not_enabled [],
    bad_doorbells_halt_the_queue [],
    enabled_while_a_unit_is_in_flight [],
    interrupt_cause_clears_by_ones [],
    registers_cannot_be_mapped [],
    msix_table_is_kept [],
    msix_pending_bits_are_read_only [],
}

/// All access widths of a guest, and some that a guest cannot use.
const LENGTHS: std::ops::RangeInclusive<usize> = 1..=16;

/// Returns the register if an access covers all of it, or half of a 64-bit one. Uses the table, not the device's
/// decoder.
fn legal(offset: u64, len: usize) -> Option<&'static Register> {
    REGISTERS.iter().find(|row| {
        let whole = offset == row.offset && len as u64 == row.width;
        let half = row.width == 8 && len == 4 && (offset == row.offset || offset == row.offset + 4);
        whole || half
    })
}

fn bar(guest: &Guest) -> Result<Region> {
    guest.region(regs::BAR_REGISTERS)
}

fn registers_hold_their_reset_values(env: &Env) -> Result {
    for (of, memory) in [(SMALL, 16 << 20), (MEDIUM, 256 << 20), (LARGE, 1 << 30)] {
        let guest = env.open(of)?;
        let mdma = Mdma::open(&guest.device)?;
        for row in &REGISTERS {
            let expected = match row.reset {
                Reset::Value(value) => value,
                Reset::MemorySize => memory,
                Reset::ThrottleUs => env.module.param("throttle_us"),
            };
            assert_eq!(mdma.get(row.reg)?, expected, "{of}: {}", row.name);
        }
        assert_eq!(
            mdma.memory_size(),
            guest.region(regs::BAR_MEMORY)?.info().size
        );
    }
    Ok(())
}

/// Each access inside the BAR succeeds. A VMM logs each failed access, so a guest could fill its log.
fn no_access_fails(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    let bar = bar(&guest)?;
    let mdma = Mdma::open(&guest.device)?;
    let before = mdma.snapshot()?;
    let mark = env.kmsg.mark();
    let (mut refused, mut told) = (0, 0);
    for offset in 0..regs::WINDOW {
        for len in LENGTHS.filter(|len| offset + *len as u64 <= regs::WINDOW) {
            let mut bytes = vec![0x5a; len];
            let what = format!("{len} bytes at {offset:#x}");
            assert_eq!(bar.pread(offset, &mut bytes)?, len, "read of {what}");
            if legal(offset, len).is_none() {
                assert_eq!(bytes, vec![0xff; len], "read of {what}");
                let written = bar.pwrite(offset, &vec![0x5a; len])?;
                assert_eq!(written, len, "write of {what}");
                refused += 2;
                // The framework does not pass accesses to the device that a guest cannot make.
                told += if len <= 8 { 2 } else { 0 };
            }
        }
    }
    let changed = mdma.snapshot()?.diff(&before);
    let names: Vec<_> = changed.iter().map(|(name, ..)| *name).collect();
    assert_eq!(names, ["REFUSED"], "a refused write had an effect");
    let (count, _, reason) = refused::fields(mdma.get(Reg::Refused)?);
    assert_eq!((count, reason), (told, refused::NO_REGISTER));
    assert_eq!(refused::counted(guest.uuid())?, refused);
    expect_no_line(env, guest.uuid(), mark, "accesses to BAR 0");
    // A reset clears the device's counter.
    guest.device.reset()?;
    assert_eq!(mdma.get(Reg::Refused)?, 0);
    Ok(())
}

/// The same for the BARs that the framework implements.
fn no_access_to_memory_or_msix_fails(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let mark = env.kmsg.mark();
    let memory = fixture.region(regs::BAR_MEMORY)?;
    // Test around a page boundary and at both ends.
    let size = memory.info().size;
    let places = (0..24).chain(4080..4112).chain(size - 16..size);
    for offset in places {
        for len in LENGTHS.filter(|len| offset + *len as u64 <= size) {
            let what = format!("{len} bytes at {offset:#x}");
            let pattern: Vec<u8> = (0..len).map(|i| (offset as usize + i * 3) as u8).collect();
            assert_eq!(memory.pwrite(offset, &pattern)?, len, "write of {what}");
            let mut bytes = vec![0; len];
            assert_eq!(memory.pread(offset, &mut bytes)?, len, "read of {what}");
            assert_eq!(bytes, pattern, "{what}");
        }
    }
    let table = fixture.region(regs::BAR_MSIX)?;
    let size = table.info().size;
    let mut whole = Vec::new();
    for at in (0..size).step_by(8) {
        whole.extend(table.read_u64(at)?.to_le_bytes());
    }
    for offset in 0..size {
        for len in LENGTHS.filter(|len| offset + *len as u64 <= size) {
            let what = format!("{len} bytes at {offset:#x} of the MSI-X BAR");
            let mut bytes = vec![0x5a; len];
            assert_eq!(table.pread(offset, &mut bytes)?, len, "read of {what}");
            let expected = match len {
                ..=8 => whole[offset as usize..][..len].to_vec(),
                _ => vec![0xff; len],
            };
            assert_eq!(bytes, expected, "{what}");
            // Write the same bytes back.
            assert_eq!(table.pwrite(offset, &bytes)?, len, "write of {what}");
        }
    }
    expect_no_line(env, fixture.uuid(), mark, "accesses to BARs 2 and 4");
    Ok(())
}

/// A guest cannot make accesses wider than 8 bytes, but the device accepts them up to a page. An access outside the BAR
/// fails.
fn registers_have_no_room_for_wide_accesses(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    let bar = bar(&guest)?;
    let mut page = vec![0; regs::WINDOW as usize];
    assert_eq!(bar.pread(0, &mut page)?, page.len());
    assert_eq!(page, vec![0xff; page.len()]);
    assert_eq!(bar.pwrite(0, &page)?, page.len());
    assert_eq!(refused::counted(guest.uuid())?, 2);
    // A guest cannot access bytes beyond the end.
    let mut beyond = || bar.pread(regs::WINDOW - 4, &mut page[..8]);
    assert_refused!(env, guest.uuid(), beyond(), EINVAL, "outside");
    Ok(())
}

fn registers_are_little_endian_halves(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    guest.device.config()?.enable()?;
    let bar = bar(&guest)?;
    let scratch = Reg::Scratch.offset();
    bar.write(scratch, &0x1122_3344_5566_7788u64.to_le_bytes())?;
    let halves = (bar.read_u32(scratch)?, bar.read_u32(scratch + 4)?);
    assert_eq!(halves, (0x5566_7788, 0x1122_3344));
    // A write of one half does not change the other.
    bar.write_u32(scratch + 4, 0xaabb_ccdd)?;
    assert_eq!(bar.read_u64(scratch)?, 0xaabb_ccdd_5566_7788);
    bar.write_u32(scratch, 0x0102_0304)?;
    assert_eq!(bar.read_u64(scratch)?, 0xaabb_ccdd_0102_0304);
    assert_eq!(bar.read_u32(0)?.to_le_bytes(), *b"MDMA");
    Ok(())
}

fn read_only_registers_refuse_writes(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    let bar = bar(&guest)?;
    let mdma = Mdma::open(&guest.device)?;
    let before = mdma.snapshot()?;
    let read_only: Vec<_> = REGISTERS
        .iter()
        .filter(|r| r.access == Access::Ro)
        .collect();
    assert!(read_only.len() >= 8);
    for row in read_only {
        let write = |value: u64, offset: u64, width: usize| {
            let expected = (row.reg, refused::READ_ONLY);
            expect_refused(env, guest.uuid(), &mdma, expected, row.name, || {
                bar.write(offset, &value.to_le_bytes()[..width])
            });
        };
        // The device refuses even the current value.
        write(before.get(row.reg), row.offset, row.width as usize);
        write(!0, row.offset, row.width as usize);
        if row.width == 8 {
            write(0, row.offset, 4);
            write(0, row.offset + 4, 4);
        }
    }
    Ok(())
}

fn writable_registers_keep_values(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    let mdma = Mdma::open(&guest.device)?;
    for (reg, values) in [
        (Reg::Scratch, &[!0, 0, 0x8000_0000_0000_0001][..]),
        (Reg::IntMask, &[3, 1, 2, 0][..]),
        (Reg::Throttle, &[u64::from(regs::MAX_THROTTLE_US), 1, 0][..]),
        // A disabled queue accepts any value. The device checks it when the queue is enabled.
        (Reg::RingBase, &[0x1_0000, !0, 0][..]),
        (Reg::RingOrder, &[1, 12, 0][..]),
        (Reg::CompletionBase, &[0x1_0000, !0, 0][..]),
    ] {
        for value in values {
            let others = mdma.snapshot()?;
            mdma.set(reg, *value)?;
            assert_eq!(mdma.get(reg)?, *value, "{}", reg.row().name);
            let changed = mdma.snapshot()?.diff(&others);
            let foreign = changed.iter().find(|(name, ..)| *name != reg.row().name);
            assert_eq!(
                foreign,
                None,
                "a write of {} changed another register",
                reg.row().name
            );
        }
    }
    Ok(())
}

fn reserved_bits_are_refused(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    let mdma = Mdma::open(&guest.device)?;
    mdma.set(Reg::IntMask, 1)?;
    for (reg, values) in [
        (Reg::Control, &[2, 0x8000_0000, 0xffff_ffff][..]),
        (Reg::IntMask, &[4, 7, 0xffff_ffff][..]),
        (Reg::IntCause, &[4, 0x8000_0000][..]),
        (
            Reg::Throttle,
            &[u64::from(regs::MAX_THROTTLE_US) + 1, 0xffff_ffff][..],
        ),
    ] {
        for value in values {
            let what = format!("{value:#x} to {}", reg.row().name);
            let expected = (reg, refused::ILLEGAL);
            expect_refused(env, guest.uuid(), &mdma, expected, &what, || {
                mdma.set(reg, *value)
            });
        }
    }
    Ok(())
}

fn queue_registers_are_locked_while_enabled(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let queue = fixture.queue(3)?;
    let before = fixture.registers()?;
    let locked: Vec<_> = REGISTERS
        .iter()
        .filter(|r| r.access == Access::RwDisabled)
        .collect();
    assert_eq!(locked.len(), 3);
    for row in &locked {
        let value = before.get(row.reg);
        let expected = (row.reg, refused::WHILE_ENABLED);
        expect_refused(
            env,
            fixture.uuid(),
            &fixture.mdma,
            expected,
            row.name,
            || fixture.mdma.set(row.reg, value),
        );
    }
    // Enabling an enabled queue changes nothing.
    let before = fixture.registers()?;
    fixture.mdma.set(Reg::Control, 1)?;
    assert_eq!(fixture.registers()?.diff(&before), []);
    queue.close()?;
    for row in locked {
        fixture.mdma.set(row.reg, 0)?;
    }
    Ok(())
}

fn illegal_rings_are_not_enabled(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    let mdma = Mdma::open(&guest.device)?;
    let top = u64::MAX;
    for (base, order, completions, why) in [
        (0x1_0001, 4, 0x2_0000, "unaligned base"),
        (0x1_0020, 4, 0x2_0000, "base of half a descriptor"),
        (0x1_0000, 0, 0x2_0000, "order 0"),
        (0x1_0000, 4, 0x2_0001, "unaligned completions"),
        (0x1_0000, 4, 0x2_0010, "completions at half a record"),
        (
            top & !63,
            4,
            0x2_0000,
            "a ring across the end of the address space",
        ),
        (
            0x1_0000,
            4,
            top & !31,
            "completions across the end of the address space",
        ),
    ] {
        mdma.set(Reg::RingBase, base)?;
        mdma.set(Reg::RingOrder, order)?;
        mdma.set(Reg::CompletionBase, completions)?;
        let expected = (Reg::Control, refused::ILLEGAL);
        expect_refused(env, guest.uuid(), &mdma, expected, why, || {
            mdma.set(Reg::Control, 1)
        });
    }
    // The register does not accept an invalid order.
    for order in [13, 32, 0xffff_ffff] {
        let what = format!("order {order}");
        let expected = (Reg::RingOrder, refused::ILLEGAL);
        expect_refused(env, guest.uuid(), &mdma, expected, &what, || {
            mdma.set(Reg::RingOrder, order)
        });
        assert_eq!(mdma.get(Reg::RingOrder)?, 4);
    }
    // The device accepts unmapped addresses. It detects them when it fetches a descriptor.
    mdma.set(Reg::RingBase, 0x1_0000)?;
    mdma.set(Reg::RingOrder, 12)?;
    mdma.set(Reg::CompletionBase, 0x8_0000)?;
    mdma.set(Reg::Control, 1)?;
    assert_eq!(mdma.get(Reg::Status)?, regs::STATUS_ENABLED.into());
    Ok(())
}

/// The device must not ignore an invalid write to TAIL: the queue halts, and `ERROR` shows the reason.
fn bad_doorbells_halt_the_queue(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let expected = (Reg::Tail, refused::WHILE_DISABLED);
    let what = "doorbell of a disabled queue";
    expect_refused(env, fixture.uuid(), &fixture.mdma, expected, what, || {
        fixture.mdma.set(Reg::Tail, 1)
    });
    fixture.mdma.set_interrupts(regs::INT_ALL)?;
    let mark = env.kmsg.mark();
    // The values are beyond the ring of 8, or below the tail of 3. Without bus mastering, the head does not move.
    let mut queue = fixture.queue(3)?;
    for value in [8, 9, 0x8000_0000, 0xffff_ffff, 0, 2] {
        fixture.device.config()?.set_bus_master(false)?;
        queue.restart(3)?;
        fixture.mdma.set(Reg::Tail, 3)?;
        fixture.mdma.set(Reg::Tail, 3)?;
        fixture.mdma.check_halted()?;
        fixture.mdma.set(Reg::Tail, value)?;
        let registers = fixture.registers()?;
        let status = u64::from(regs::STATUS_ENABLED | regs::STATUS_HALTED);
        assert_eq!(registers.get(Reg::Status), status, "doorbell {value}");
        assert_eq!(registers.get(Reg::Error), Error::BadTail as u64);
        assert_eq!(registers.get(Reg::Tail), 3, "doorbell {value}");
        assert_eq!(registers.get(Reg::IntCause), regs::INT_HALT.into());
        // Later writes do not change the first error.
        fixture.mdma.set(Reg::Tail, 99)?;
        assert_eq!(fixture.registers()?.diff(&registers), []);
        fixture.mdma.acknowledge()?;
    }
    let stream = fixture.save()?;
    let other = MdmaFixture::new(env)?;
    other.load(&stream)?;
    assert_eq!(other.mdma.get(Reg::Error)?, Error::BadTail as u64);
    drop(other);
    fixture.go(&[vfio_client::v1::State::RUNNING])?;
    fixture.device.config()?.set_bus_master(true)?;
    queue.restart(3)?;
    fixture::run_jobs(&mut queue, &[mdma::job::nop()])?;
    expect_no_line(env, fixture.uuid(), mark, "invalid doorbells");
    Ok(())
}

/// If the user enables the queue while a unit of the previous run is in flight, the new run starts after the unit.
fn enabled_while_a_unit_is_in_flight(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let mut queue = fixture.queue(4)?;
    let long = mdma::job::fill(fixture::device(0), !0, 16 << 20);
    let mut met = 0;
    for round in 0..200 {
        // Before the doorbell: the job may be over when this thread runs again.
        let before = fixture.mdma.get(Reg::BytesDone)?;
        queue.submit(&long)?;
        fixture::wait_register(&fixture.mdma, Reg::BytesDone, "the job", |v| v > before)?;
        fixture.mdma.set(Reg::Control, 0)?;
        met += u32::from(fixture.mdma.busy()?);
        fixture.mdma.set(Reg::Control, 1)?;
        assert_eq!(fixture.mdma.get(Reg::Control)?, 1, "round {round}");
        // The new run works.
        queue.restart(4)?;
        fixture::run_jobs(&mut queue, &[mdma::job::nop()])?;
    }
    note!("in {met} of 200 rounds, a unit was in flight");
    assert_eq!(fixture.mdma.get(Reg::Refused)?, 0);
    Ok(())
}

fn interrupt_cause_clears_by_ones(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let mut queue = fixture.queue(3)?;
    fixture::run_jobs(&mut queue, &[mdma::job::nop()])?;
    assert_eq!(
        fixture.mdma.get(Reg::IntCause)?,
        0,
        "the job did not request an interrupt"
    );
    fixture::run_jobs(&mut queue, &[mdma::job::nop().interrupt()])?;
    assert_eq!(
        fixture.mdma.get(Reg::IntCause)?,
        regs::INT_COMPLETION.into()
    );
    // Raise the other cause.
    queue.fill_raw(&[0xff; mdma::desc::DESCRIPTOR_SIZE])?;
    queue.ring_doorbell()?;
    fixture::wait_register(&fixture.mdma, Reg::Status, "the queue to halt", |v| {
        v & u64::from(regs::STATUS_HALTED) != 0
    })?;
    assert_eq!(fixture.mdma.get(Reg::IntCause)?, regs::INT_ALL.into());
    for (write, left) in [(0, 3), (1, 2), (1, 2), (3, 0), (3, 0)] {
        fixture.mdma.set(Reg::IntCause, write)?;
        assert_eq!(
            fixture.mdma.get(Reg::IntCause)?,
            left,
            "after a write of {write}"
        );
    }
    Ok(())
}

fn registers_cannot_be_mapped(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    let area = Area {
        offset: 0,
        size: 4096,
    };
    for index in [regs::BAR_REGISTERS, regs::BAR_MSIX, 7] {
        let region = guest.region(index)?;
        for protection in [Protection::READ, Protection::READ_WRITE] {
            let what = format!("mmap of region {index}");
            expect_refusal(env, guest.uuid(), libc::EINVAL, "map", &what, || {
                region.mmap(area, protection)
            });
        }
    }
    Ok(())
}

/// The size of a table entry: address, data, control.
const ENTRY: usize = 16;
const VECTORS: usize = 4;
const PENDING: u64 = 0x800;

fn msix_table_is_kept(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let table = fixture.region(regs::BAR_MSIX)?;
    let read = || -> Result<Vec<u8>> {
        let words = (0..4096u64).step_by(8).map(|at| table.read_u64(at));
        let words = words.collect::<vfio_client::Result<Vec<_>>>()?;
        Ok(words.iter().flat_map(|w| w.to_le_bytes()).collect())
    };
    // All vectors are masked, and the rest reads 0.
    let mut power_on = vec![0; 4096];
    for vector in 0..VECTORS {
        power_on[vector * ENTRY + 12] = 1;
    }
    assert_eq!(read()?, power_on);

    // Write ones with each width: only address, data and mask keep them.
    let mut ones = vec![0; 4096];
    for vector in 0..VECTORS {
        let entry = &mut ones[vector * ENTRY..][..ENTRY];
        entry[..13].copy_from_slice(&[0xff; 13]);
        entry[0] = 0xfc;
        entry[12] = 1;
    }
    for width in [1, 2, 4, 8] {
        for (value, expected) in [(0xff, &ones), (0, &vec![0; 4096])] {
            for at in (0..4096).step_by(width) {
                table.write(at as u64, &vec![value; width])?;
            }
            assert_eq!(
                &read()?,
                expected,
                "{value:#x} written in units of {width} bytes"
            );
        }
    }
    fixture.device.reset()?;
    assert_eq!(read()?, power_on, "after a reset");
    Ok(())
}

fn msix_pending_bits_are_read_only(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let table = fixture.region(regs::BAR_MSIX)?;
    let event = vfio_client::EventFd::new()?;
    let msix = fixture.device.irq(2)?;
    // Vectors 0 and 1 are enabled. Vector 0 has no eventfd yet, so its message stays pending.
    msix.set_eventfds(0, &[None, Some(&event)])?;
    fixture.mdma.set_interrupts(regs::INT_ALL)?;
    let mut queue = fixture.queue(2)?;
    fixture::run_jobs(&mut queue, &[mdma::job::nop().interrupt()])?;
    crate::harness::check::wait_for("the pending bit", || Ok(table.read_u64(PENDING)? == 1))?;
    table.write_u64(PENDING, 0)?;
    table.write_u64(PENDING, !0)?;
    assert_eq!(table.read_u64(PENDING)?, 1, "pending bits after writes");
    assert_eq!(table.read_u8(PENDING)?, 1);
    msix.set_eventfds(0, &[Some(&event)])?;
    crate::harness::check::expect_signal(&event, "the pending message");
    assert_eq!(table.read_u64(PENDING)?, 0);
    Ok(())
}
