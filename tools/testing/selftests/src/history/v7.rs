// SPDX-License-Identifier: GPL-2.0

//! The region of July 2019: registers, states, saving and loading.

use mdma::regs::Reg;
use migration::stream::Kind;
use vfio_client::v1::State;
use vfio_client::v7::{offset, DIRTY_PFNS_NONE};
use vfio_client::Protection;

use crate::env::Env;
use crate::fixture::bytes::same;
use crate::fixture::{device, parse, PAGE};
use crate::harness::result::Result;
use crate::history::{refuses_all_but, Old, V7};
use crate::{assert_errno, assert_refused, tests};

tests! { "history_v7" needs [Mdma]:
    p36_other_widths_and_directions_are_refused ["P36"],
    p36_all_states_and_bits ["P36"],
    p36_data_moves_mapped_and_trapped ["P36"],
    p36_reading_pending_bytes_consumes ["P36"],
    p36_a_bitmap_disturbs_no_staged_buffer ["P36"],
    p36_sizes_that_are_refused ["P36"],
    p36_both_orders_without_a_mapping ["P36"],
    p36_an_announced_section_has_to_be_complete ["P36"],
    p36_a_failed_load_reads_110_until_a_reset ["P36"],
    p36_the_registers_are_never_mapped ["P36"],
}

/// The states of a device that has not failed.
const STATES: [State; 5] = [
    State::RUNNING,
    State::STOP,
    State::PRE_COPY,
    State::STOP_AND_COPY,
    State::RESUMING,
];

fn p36_other_widths_and_directions_are_refused(env: &Env) -> Result {
    let v7 = V7::old(env)?;
    for state in STATES {
        v7.migration.set_state(state)?;
        let saving = matches!(state, State::PRE_COPY | State::STOP_AND_COPY);
        let legal = |offset, len, write| match (offset, len, write) {
            (0 | 4, 4, _) | (8 | 16 | 24, 8, false) => true,
            (24, 8, true) => state == State::RESUMING,
            (32 | 40 | 48, 8, true) | (56, 8, false) => saving,
            _ => false,
        };
        refuses_all_but(&v7.migration, 72, legal, &format!("{state:?}"));
        assert_eq!(v7.migration.state()?, state, "an access changed the state");
        let region = v7.migration.region();
        for offset in [64, 2048, PAGE - 8] {
            assert_errno!(region.read_u64(offset), EINVAL, "{state:?}, {offset}");
            assert_errno!(region.write_u64(offset, 0), EINVAL, "{state:?}, {offset}");
        }
        let end = region.info().size;
        assert_errno!(region.read_u64(end - 4), EINVAL, "across the end");
        assert_errno!(region.write_u64(end, 0), EINVAL, "behind the end");
        region.write_u32(offset::RESERVED, 0xffff_ffff)?;
        assert_eq!(region.read_u32(offset::RESERVED)?, 0);
        v7.device.reset()?;
    }
    Ok(())
}

fn p36_all_states_and_bits(env: &Env) -> Result {
    let v7 = V7::old(env)?;
    for from in STATES {
        for bits in (0..16).chain([0x8000_0000, u32::MAX]) {
            v7.device.reset()?;
            assert_eq!(v7.migration.state()?, State::RUNNING);
            v7.migration.set_state(from)?;
            let allowed: &[u32] = match from {
                State::RUNNING => &[0b000, 0b001, 0b010, 0b011, 0b100],
                State::STOP => &[0b000, 0b001, 0b010, 0b100],
                State::PRE_COPY => &[0b000, 0b001, 0b010, 0b011],
                State::STOP_AND_COPY => &[0b000, 0b001, 0b010],
                // Ending a load needs data.
                _ => &[0b100],
            };
            let result = v7.migration.set_state(State(bits));
            if allowed.contains(&bits) {
                result?;
                assert_eq!(v7.migration.state()?, State(bits), "{from:?} to {bits:#b}");
            } else if from == State::RESUMING && bits < 2 {
                assert_errno!(result, ENODATA, "{from:?} to {bits:#b}");
                assert_eq!(v7.migration.state()?, State::ERROR);
            } else {
                assert_errno!(result, EINVAL, "{from:?} to {bits:#b}");
                assert_eq!(v7.migration.state()?, from, "after {bits:#b}");
            }
        }
    }
    Ok(())
}

fn p36_data_moves_mapped_and_trapped(env: &Env) -> Result {
    let (mut source, mut destination) = (V7::old(env)?, V7::old(env)?);
    source.fill_state(&[0, 7, 8, 300, 4095])?;
    for access in source.accesses() {
        source.fixture.migration.access(access)?;
        let bytes = source.save_old()?;
        source.migration.run()?;
        let records = parse(&bytes)?.records;
        assert_eq!(records.last().and_then(|r| r.kind()), Some(Kind::End));
        for access in destination.accesses() {
            destination.fixture.migration.access(access)?;
            destination.load_old(&bytes)?;
            source.expect_same(&destination, &format!("{access:?}"))?;
            destination.device.reset()?;
            let scratch = destination.mdma.get(Reg::Scratch)?;
            assert_ne!(scratch, source.mdma.get(Reg::Scratch)?);
        }
    }
    Ok(())
}

fn p36_reading_pending_bytes_consumes(env: &Env) -> Result {
    let v7 = V7::old(env)?;
    let m = &v7.migration;
    v7.write_memory(0, &vec![5; 8 << 20])?;
    for state in [State::PRE_COPY, State::STOP_AND_COPY] {
        m.set_state(state)?;
        let mut next = None;
        for _ in 0..3 {
            let pending = m.pending_bytes()?;
            assert_eq!(m.pending_bytes()?, pending, "reading again changed it");
            assert_eq!(m.data_size()?, 0, "nothing is staged");
            let mut buffer = Vec::new();
            m.save_buffer(&mut buffer)?;
            let mut again = Vec::new();
            m.save_buffer(&mut again)?;
            same(&again, &buffer, device(0), "the same buffer");
            let stream = parse(&buffer)?;
            let first = stream.records[0].header.sequence;
            assert!(next.is_none_or(|next| next == first), "lost or repeated");
            next = Some(first + stream.records.len() as u64);
            assert!(m.pending_bytes()? < pending);
            assert_eq!(m.data_size()?, 0, "the buffer was not consumed");
        }
    }
    Ok(())
}

fn p36_a_bitmap_disturbs_no_staged_buffer(env: &Env) -> Result {
    let (source, destination) = (V7::old(env)?, V7::old(env)?);
    let m = &source.migration;
    source.fill_state(&[1, 2, 3])?;
    m.set_state(State::PRE_COPY)?;
    m.pending_bytes()?;
    let mut staged = Vec::new();
    m.save_buffer(&mut staged)?;
    // A VMM asks for dirty pages, and stops the device, before it reads pending_bytes again.
    assert!(m.dirty(0, 1 << 30)?.is_clean());
    m.set_state(State::STOP_AND_COPY)?;
    assert!(m.dirty(0, 1 << 30)?.is_clean());
    let mut bytes = staged.clone();
    m.save(&mut bytes)?;
    let again = parse(&bytes[staged.len()..])?.records[0].header.sequence;
    assert_eq!(
        again,
        parse(&staged)?.records[0].header.sequence,
        "not offered again"
    );
    m.set_state(State::STOP)?;
    destination.load_old(&bytes)?;
    source.expect_same(&destination, "with the repetition")
}

fn p36_sizes_that_are_refused(env: &Env) -> Result {
    let (source, destination) = (V7::old(env)?, V7::old(env)?);
    let bytes = source.save_old()?;
    let m = &destination.migration;
    m.set_state(State::RESUMING)?;
    let room = m.region().info().size - m.data_offset()?;
    for size in [0, room + 1, u64::MAX] {
        assert_refused!(
            env,
            destination.uuid(),
            m.write_data_size(size),
            EINVAL,
            "data_size"
        );
    }
    m.load(&bytes)?;
    m.set_state(State::RUNNING)?;
    source.expect_same(&destination, "after refusals")
}

fn p36_both_orders_without_a_mapping(env: &Env) -> Result {
    env.module.with("mmap_data_section=0", || {
        let (source, destination) = (V7::old(env)?, V7::old(env)?);
        source.fill_state(&[0, 9])?;
        let bytes = source.save_old()?;
        let m = &destination.migration;
        let region = m.region();
        for (size_first, piece) in [(true, 1000), (false, 1000), (true, 7), (false, 9000)] {
            m.set_state(State::RESUMING)?;
            let at = m.data_offset()?;
            for section in bytes.chunks(5000) {
                if size_first {
                    m.write_data_size(section.len() as u64)?;
                }
                for (n, part) in section.chunks(piece).enumerate() {
                    region.write(at + (n * piece) as u64, part)?;
                }
                if !size_first {
                    m.write_data_size(section.len() as u64)?;
                }
            }
            m.set_state(State::RUNNING)?;
            source.expect_same(&destination, &format!("size first: {size_first}"))?;
            destination.device.reset()?;
        }
        Ok(())
    })
}

fn p36_an_announced_section_has_to_be_complete(env: &Env) -> Result {
    env.module.with("mmap_data_section=0", || {
        let (source, destination) = (V7::old(env)?, V7::old(env)?);
        source.fill_state(&[4])?;
        let bytes = source.save_old()?;
        let m = &destination.migration;
        m.set_state(State::RESUMING)?;
        let at = m.data_offset()?;
        let half = bytes.len() / 2;
        m.write_data_size(bytes.len() as u64)?;
        m.region().write(at, &bytes[..half])?;
        let uuid = destination.uuid();
        for to in [State::STOP, State::RUNNING] {
            assert_refused!(env, uuid, m.set_state(to), EINVAL, "announced bytes");
            assert_eq!(m.state()?, State::RESUMING);
        }
        assert_errno!(m.write_data_size(1), EINVAL, "announced twice");
        m.region().write(at + half as u64, &bytes[half..])?;
        m.set_state(State::RUNNING)?;
        source.expect_same(&destination, "completed")
    })
}

fn p36_a_failed_load_reads_110_until_a_reset(env: &Env) -> Result {
    let v7 = V7::old(env)?;
    v7.migration.set_state(State::RESUMING)?;
    assert_errno!(v7.migration.load(&[0xff; 200]), EINVAL);
    assert_errno!(v7.migration.set_state(State::RUNNING), EINVAL);
    assert_eq!(v7.migration.state()?, State::ERROR);
    for bits in 0..8 {
        assert_errno!(v7.migration.set_state(State(bits)), EINVAL, "{bits:#b}");
    }
    v7.device.reset()?;
    assert_eq!(v7.migration.state()?, State::RUNNING);
    v7.save_old()?;
    Ok(())
}

fn p36_the_registers_are_never_mapped(env: &Env) -> Result {
    let v7 = V7::old(env)?;
    let region = v7.migration.region();
    let areas = region.info().areas();
    let (first, last) = (areas[0], areas[areas.len() - 1]);
    assert_eq!(first.offset, PAGE);
    assert_eq!(last.offset + last.size, region.info().size);
    for (offset, size) in [(0, PAGE), (0, 2 * PAGE), (last.offset, last.size + PAGE)] {
        let area = vfio_client::Area { offset, size };
        let errno = region
            .mmap(area, Protection::READ)
            .map_err(|e| e.raw_os_error());
        assert_eq!(errno.err(), Some(Some(libc::EINVAL)), "{size} at {offset}");
    }
    // What the device has not written reads 0.
    let mapping = v7.migration.mapping().expect("a mapping");
    assert!(mapping
        .to_vec(0, mapping.len())
        .iter()
        .all(|byte| *byte == 0));
    v7.migration.set_state(State::PRE_COPY)?;
    v7.migration.ask_dirty(0, PAGE, 100)?;
    assert_eq!(v7.migration.copied_pfns()?, DIRTY_PFNS_NONE);
    Ok(())
}
