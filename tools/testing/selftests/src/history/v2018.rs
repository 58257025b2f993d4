// SPDX-License-Identifier: GPL-2.0

//! The region of November 2018: registers, states, saving and loading.

use mdma::regs::Reg;
use vfio_client::v2018::{offset, State};

use crate::env::Env;
use crate::fixture::bytes::same;
use crate::fixture::{device, parse, PAGE};
use crate::harness::result::Result;
use crate::history::{refuses_all_but, Old, V2018};
use crate::{assert_errno, assert_refused, tests};

tests! { "history_2018" needs [Mdma]:
    p37_fields_and_groups_and_nothing_else ["P37"],
    p37_all_states_and_arcs ["P37"],
    p37_data_moves_mapped_and_trapped ["P37"],
    p37_pending_ends_the_posted_loops ["P37"],
    p37_what_changed_again_is_by_the_threshold ["P37"],
    p37_reading_pending_consumes ["P37"],
    p37_a_bitmap_disturbs_no_staged_buffer ["P37"],
    p37_trapped_data_comes_after_its_size ["P37"],
    p37_data_that_is_refused ["P37"],
    p37_single_fields ["P37"],
    p37_failed_and_cancelled_by_side ["P37"],
}

/// Brings a running device into a state.
fn reach(v2018: &V2018, state: State) -> Result {
    let way: &[State] = match state {
        State::RUNNING => &[],
        State::PRECOPY => &[State::SETUP, State::PRECOPY],
        State::STOPNCOPY => &[State::SETUP, State::STOPNCOPY],
        State::SAVE_COMPLETED => &[State::SETUP, State::STOPNCOPY, State::SAVE_COMPLETED],
        _ => &[state],
    };
    for state in way {
        v2018.migration.set_state(*state)?;
    }
    assert_eq!(v2018.migration.state()?, state);
    Ok(())
}

/// The states that can be reached without a stream.
const STATES: [State; 9] = [
    State::NONE,
    State::RUNNING,
    State::SETUP,
    State::PRECOPY,
    State::STOPNCOPY,
    State::SAVE_COMPLETED,
    State::RESUME,
    State::FAILED,
    State::CANCELLED,
];

fn p37_fields_and_groups_and_nothing_else(env: &Env) -> Result {
    let v2018 = V2018::old(env)?;
    for state in STATES {
        reach(&v2018, state)?;
        let saving = matches!(state, State::SETUP | State::PRECOPY | State::STOPNCOPY);
        let resuming = state == State::RESUME;
        let legal = |offset, len, write| match (offset, len, write) {
            (0, 4, _) | (4 | 12 | 20 | 36 | 44, 8, false) | (28, 8, _) => true,
            (4, 32, false) | (36, 16, false) => true,
            (36 | 44, 8, true) | (36, 16, true) => resuming,
            (52 | 60, 8, _) | (68, 8, false) | (52, 24, _) => saving,
            _ => false,
        };
        refuses_all_but(&v2018.migration, 76, legal, &format!("{state:?}"));
        assert_eq!(
            v2018.migration.state()?,
            state,
            "an access changed the state"
        );
        let region = v2018.migration.region();
        let mut byte = [0];
        let errno = region.pread(76, &mut byte).map_err(|e| e.raw_os_error());
        assert_eq!(
            errno,
            Err(Some(libc::EINVAL)),
            "the byte behind the structure"
        );
        let end = region.info().size;
        assert_errno!(region.read_u64(end - 4), EINVAL, "across the end");
        assert_errno!(region.write_u64(end, 0), EINVAL, "behind the end");
        v2018.device.reset()?;
        assert_eq!(v2018.migration.state()?, State::RUNNING);
    }
    Ok(())
}

fn p37_all_states_and_arcs(env: &Env) -> Result {
    let v2018 = V2018::old(env)?;
    for from in STATES {
        for number in (0..12).chain([0x100, u32::MAX]) {
            v2018.device.reset()?;
            reach(&v2018, from)?;
            let to = State(number);
            let allowed: &[u32] = match from {
                State::NONE => &[0, 1, 6],
                State::RUNNING => &[0, 1, 2, 6, 8, 9],
                State::SETUP => &[1, 2, 3, 4, 8, 9],
                State::PRECOPY => &[1, 3, 4, 8, 9],
                State::STOPNCOPY => &[1, 4, 5, 8, 9],
                State::SAVE_COMPLETED => &[1, 5, 8, 9],
                State::RESUME => &[6, 8, 9],
                _ => &[1, 2, 6, 8, 9],
            };
            let result = v2018.migration.set_state(to);
            if allowed.contains(&number) {
                result?;
                assert_eq!(v2018.migration.state()?, to, "{from:?} to {to:?}");
            } else if from == State::RESUME && matches!(number, 1 | 7) {
                // Ending a load needs data. There is no error state to read.
                assert_errno!(result, ENODATA, "{from:?} to {to:?}");
                assert_eq!(v2018.migration.state()?, from);
                assert_errno!(v2018.migration.set_state(State::RUNNING), EINVAL);
                v2018.migration.set_state(State::FAILED)?;
            } else {
                assert_errno!(result, EINVAL, "{from:?} to {to:?}");
                assert_eq!(v2018.migration.state()?, from, "after {to:?}");
            }
        }
    }
    Ok(())
}

fn p37_data_moves_mapped_and_trapped(env: &Env) -> Result {
    let (mut source, mut destination) = (V2018::old(env)?, V2018::old(env)?);
    source.fill_state(&[0, 7, 8, 300, 4095])?;
    for access in source.accesses() {
        source.fixture.migration.access(access)?;
        let bytes = source.save_old()?;
        source.migration.run()?;
        for access in destination.accesses() {
            // Sections that fit into the first area, into the second, and into neither.
            for piece in [1 << 20, 900 << 10, 5000, 1] {
                let bytes = match piece {
                    1 => &bytes[..],
                    _ => &bytes,
                };
                destination.fixture.migration.access(access)?;
                destination.migration.begin_load()?;
                let step = if piece == 1 { 3001 } else { piece };
                for section in bytes.chunks(step) {
                    destination.migration.load(section)?;
                }
                destination.migration.end_load()?;
                destination.migration.run()?;
                source.expect_same(&destination, &format!("{access:?}, {step}"))?;
                destination.device.reset()?;
                let scratch = destination.mdma.get(Reg::Scratch)?;
                assert_ne!(scratch, source.mdma.get(Reg::Scratch)?);
            }
        }
    }
    Ok(())
}

fn p37_pending_ends_the_posted_loops(env: &Env) -> Result {
    let v2018 = V2018::old(env)?;
    let m = &v2018.migration;
    v2018.write_memory(0, &vec![7; 3 << 20])?;
    m.set_state(State::SETUP)?;
    assert_eq!(m.pending(0)?.sum(), 0, "data before the pre-copy state");
    let mut none = Vec::new();
    m.save_buffer(&mut none)?;
    assert!(none.is_empty());
    m.set_state(State::PRECOPY)?;
    let first = m.pending(u64::MAX)?;
    assert!(first.precopy_only >= 3 << 20, "{first:?}");
    assert_eq!((first.compatible, first.postcopy_only), (0, 0));
    let mut bytes = Vec::new();
    let count = m.save(&mut bytes)?;
    assert!(count >= 3, "{count} buffers");
    assert_eq!(
        m.pending(u64::MAX)?.precopy_only,
        0,
        "sent, but still pending"
    );
    m.set_state(State::STOPNCOPY)?;
    let rest = m.pending(u64::MAX)?;
    assert_eq!((rest.precopy_only, rest.compatible), (0, 0));
    assert!(rest.postcopy_only > 0, "the state of a stopped device");
    assert!(m.save(&mut bytes)? > 0);
    assert_eq!(m.pending(0)?.sum(), 0);
    m.set_state(State::SAVE_COMPLETED)?;
    let destination = V2018::old(env)?;
    destination.load_old(&bytes)?;
    v2018.expect_same(&destination, "all of it")
}

fn p37_what_changed_again_is_by_the_threshold(env: &Env) -> Result {
    let v2018 = V2018::old(env)?;
    let m = &v2018.migration;
    reach(&v2018, State::PRECOPY)?;
    let mut bytes = Vec::new();
    m.save(&mut bytes)?;
    v2018.write_memory(0, &[1; 10 * PAGE as usize])?;
    let calm = m.pending(1 << 20)?;
    assert_eq!((calm.precopy_only, calm.postcopy_only), (0, 0));
    assert!(
        (10 * PAGE..11 * PAGE).contains(&calm.compatible),
        "{calm:?}"
    );
    // More than the user accepts: without it in precopy_only the posted user would never call for it.
    for threshold in [0, 1, calm.compatible] {
        let busy = m.pending(threshold)?;
        assert_eq!((busy.precopy_only, busy.compatible), (calm.compatible, 0));
    }
    assert_eq!(m.pending(calm.compatible + 1)?, calm);
    let [.., threshold] = m.group::<4>(offset::PENDING)?;
    assert_eq!(threshold, calm.compatible + 1);
    Ok(())
}

fn p37_reading_pending_consumes(env: &Env) -> Result {
    let v2018 = V2018::old(env)?;
    let m = &v2018.migration;
    v2018.write_memory(0, &vec![5; 6 << 20])?;
    m.set_state(State::SETUP)?;
    for state in [State::PRECOPY, State::STOPNCOPY] {
        m.set_state(state)?;
        let mut next = None;
        for n in 0..3 {
            let pending = m.pending(0)?.sum();
            let mut buffer = Vec::new();
            m.save_buffer(&mut buffer)?;
            let mut again = Vec::new();
            m.save_buffer(&mut again)?;
            same(&again, &buffer, device(0), "the same buffer");
            let stream = parse(&buffer)?;
            let first = stream.records[0].header.sequence;
            assert!(next.is_none_or(|next| next == first), "lost or repeated");
            next = Some(first + stream.records.len() as u64);
            // Any of its fields will do.
            let field = [
                offset::PRECOPY_ONLY,
                offset::COMPATIBLE,
                offset::POSTCOPY_ONLY,
            ][n];
            m.region().read_u64(field)?;
            assert!(m.pending(0)?.sum() < pending);
            let [_, size] = [0, m.region().read_u64(offset::DATA + 8)?];
            assert_eq!(size, 0, "the buffer was not consumed");
        }
    }
    Ok(())
}

fn p37_a_bitmap_disturbs_no_staged_buffer(env: &Env) -> Result {
    let (source, destination) = (V2018::old(env)?, V2018::old(env)?);
    let m = &source.migration;
    source.fill_state(&[1, 2, 3])?;
    reach(&source, State::PRECOPY)?;
    m.pending(0)?;
    let mut staged = Vec::new();
    m.save_buffer(&mut staged)?;
    assert!(m.dirty(0, 1 << 30)?.is_clean());
    m.set_state(State::STOPNCOPY)?;
    assert!(m.dirty(0, 1 << 30)?.is_clean());
    let mut bytes = staged.clone();
    m.save(&mut bytes)?;
    let again = parse(&bytes[staged.len()..])?.records[0].header.sequence;
    assert_eq!(
        again,
        parse(&staged)?.records[0].header.sequence,
        "not offered again"
    );
    m.set_state(State::SAVE_COMPLETED)?;
    destination.load_old(&bytes)?;
    source.expect_same(&destination, "with the repetition")
}

fn p37_trapped_data_comes_after_its_size(env: &Env) -> Result {
    let (source, destination) = (V2018::old(env)?, V2018::old(env)?);
    source.fill_state(&[0, 9])?;
    let bytes = source.save_old()?;
    let m = &destination.migration;
    let region = m.region();
    // Anywhere outside of the mapped area, in pieces of any size.
    for (at, section, piece) in [
        (77, 6000, 6000),
        (77, 6000, 7),
        (76, 9000, 100),
        (4000, 500, 99),
    ] {
        m.set_state(State::RESUME)?;
        for section in bytes.chunks(section) {
            m.set_group(offset::DATA, &[at, section.len() as u64])?;
            for (n, part) in section.chunks(piece).enumerate() {
                region.write(at + (n * piece) as u64, part)?;
            }
        }
        m.set_state(State::RESUME_COMPLETED)?;
        m.set_state(State::RUNNING)?;
        source.expect_same(&destination, &format!("pieces of {piece} at {at}"))?;
        destination.device.reset()?;
    }
    // The load goes on only with all of an announced section.
    m.set_state(State::RESUME)?;
    let half = bytes.len() / 2;
    m.set_group(offset::DATA, &[77, bytes.len() as u64])?;
    region.write(77, &bytes[..half])?;
    let uuid = destination.uuid();
    for to in [State::RESUME_COMPLETED, State::RUNNING] {
        assert_refused!(env, uuid, m.set_state(to), EINVAL, "announced bytes");
        assert_eq!(m.state()?, State::RESUME);
    }
    let twice = || m.set_group(offset::DATA, &[77, 1]);
    assert_refused!(env, uuid, twice(), EINVAL, "announced bytes");
    let beyond = || region.write(77 + half as u64, &vec![0; bytes.len()]);
    assert_refused!(env, uuid, beyond(), EINVAL, "behind the announced data");
    region.write(77 + half as u64, &bytes[half..])?;
    m.set_state(State::RESUME_COMPLETED)?;
    m.set_state(State::RUNNING)?;
    source.expect_same(&destination, "completed")
}

fn p37_data_that_is_refused(env: &Env) -> Result {
    let v2018 = V2018::old(env)?;
    let m = &v2018.migration;
    let region = m.region();
    m.set_state(State::RESUME)?;
    let section = region.info().size - PAGE;
    for (at, size) in [
        (77, 0),
        (0, 100),
        (75, 100),
        (77, section + 1),
        (PAGE, section + 1),
        (PAGE + section, 1),
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
    ] {
        let set = || m.set_group(offset::DATA, &[at, size]);
        assert_refused!(env, v2018.uuid(), set(), EINVAL, "data");
    }
    // Nothing was announced.
    for at in [76, 77, 4000] {
        assert_errno!(region.write(at, &[0; 8]), EINVAL, "{at}");
    }
    m.set_state(State::FAILED)?;
    Ok(())
}

fn p37_single_fields(env: &Env) -> Result {
    let (source, destination) = (V2018::old(env)?, V2018::old(env)?);
    source.fill_state(&[3])?;
    let m = &source.migration;
    let region = m.region();
    reach(&source, State::PRECOPY)?;
    region.write_u64(offset::THRESHOLD_SIZE, 5)?;
    assert_eq!(region.read_u64(offset::THRESHOLD_SIZE)?, 5);
    let mut bytes = Vec::new();
    let at = region.read_u64(offset::DATA)?;
    let size = region.read_u64(offset::DATA + 8)?;
    bytes.resize(size as usize, 0);
    region.read(at, &mut bytes)?;
    region.read_u64(offset::PRECOPY_ONLY)?;
    region.write_u64(offset::DIRTY_PFNS, 1 << 30)?;
    region.write_u64(offset::DIRTY_PFNS + 8, 77)?;
    assert_eq!(region.read_u64(offset::DIRTY_PFNS)?, 1 << 30);
    assert_eq!(region.read_u64(offset::DIRTY_PFNS + 8)?, 77);
    assert_eq!(region.read_u64(offset::DIRTY_PFNS + 16)?, 77);
    assert_eq!(region.read_u64(offset::DIRTY_PFNS + 16)?, 0);
    m.set_state(State::STOPNCOPY)?;
    m.save(&mut bytes)?;
    let to = &destination.migration;
    to.set_state(State::RESUME)?;
    to.region().write_u64(offset::DATA, 77)?;
    to.region()
        .write_u64(offset::DATA + 8, bytes.len() as u64)?;
    to.region().write(77, &bytes)?;
    to.set_state(State::RESUME_COMPLETED)?;
    to.set_state(State::RUNNING)?;
    source.expect_same(&destination, "by single fields")
}

fn p37_failed_and_cancelled_by_side(env: &Env) -> Result {
    let v2018 = V2018::old(env)?;
    let m = &v2018.migration;
    for end in [State::FAILED, State::CANCELLED] {
        v2018.mdma.set(Reg::Scratch, 0x2018)?;
        for from in [
            State::SETUP,
            State::PRECOPY,
            State::STOPNCOPY,
            State::SAVE_COMPLETED,
        ] {
            reach(&v2018, from)?;
            m.set_state(end)?;
            assert_eq!(
                v2018.mdma.get(Reg::Scratch)?,
                0x2018,
                "the source was reset"
            );
            // The device runs, and the next migration may begin at once.
            let mut queue = v2018.queue(4)?;
            crate::fixture::run_jobs(&mut queue, &[mdma::job::nop()])?;
            queue.close()?;
        }
        let bytes = v2018.save_old()?;
        m.set_state(State::RUNNING)?;
        for complete in [false, true] {
            m.set_state(State::RESUME)?;
            m.load(&bytes)?;
            if complete {
                m.set_state(State::RESUME_COMPLETED)?;
            }
            m.set_state(end)?;
            assert_eq!(m.state()?, end);
            assert_eq!(
                v2018.mdma.get(Reg::Scratch)?,
                0,
                "the destination was not reset"
            );
        }
    }
    Ok(())
}
