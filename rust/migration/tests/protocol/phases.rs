// SPDX-License-Identifier: GPL-2.0

//! The states of 2018, their arcs and `pending`, compared with the posting; the generations.

use migration::generation::Generation;
use migration::save::PrecopyInfo;
use migration::state::State;
use migration::transition::Action;
use migration::v2018::{arc, pending, Arc, Pending, Phase, PhaseError};

/// The arcs to another state, as the cover letter and the posted user draw them.
#[rustfmt::skip]
const ARCS: [(Phase, &[Phase]); 10] = {
    use Phase::*;
    [
        (None,            &[Running, Resume]),
        (Running,         &[None, Setup, Resume, Failed, Cancelled]),
        (Setup,           &[Running, PreCopy, StopNCopy, Failed, Cancelled]),
        (PreCopy,         &[Running, StopNCopy, Failed, Cancelled]),
        (StopNCopy,       &[Running, SaveCompleted, Failed, Cancelled]),
        (SaveCompleted,   &[Running, Failed, Cancelled]),
        (Resume,          &[Running, ResumeCompleted, Failed, Cancelled]),
        (ResumeCompleted, &[Running, Resume, Failed, Cancelled]),
        (Failed,          &[Running, Setup, Resume, Cancelled]),
        (Cancelled,       &[Running, Setup, Resume, Failed]),
    ]
};

#[test]
fn p37_all_ten_by_ten_pairs() {
    for (from, to_other) in ARCS {
        for to in Phase::ALL {
            let found = arc(from, from.state(), to);
            if from == to {
                // Written twice: nothing happens.
                let Ok(Arc::Change(transition)) = found else {
                    panic!("{from:?} twice: {found:?}");
                };
                assert_eq!(transition.actions, []);
                continue;
            }
            assert_eq!(found.is_ok(), to_other.contains(&to), "{from:?} to {to:?}");
            if let Err(error) = found {
                assert_eq!(error, PhaseError::NoArc(from, to));
                assert_eq!(error.errno(), 22);
            }
        }
    }
}

#[test]
fn p37_an_arc_does_what_the_two_states_say() {
    for from in Phase::ALL {
        for to in Phase::ALL {
            let Ok(Arc::Change(transition)) = arc(from, from.state(), to) else {
                continue;
            };
            let (before, after) = (from.state(), to.state());
            assert_eq!((transition.from, transition.to), (before, after));
            let does = |action| transition.actions.contains(&action);
            let at = format!("{from:?} to {to:?}");
            assert_eq!(
                does(Action::Run),
                !before.is_running() && after.is_running(),
                "{at}"
            );
            let stops = before.is_running() && !after.is_running();
            assert_eq!(does(Action::QuiesceAll), stops, "{at}");
            assert_eq!(
                does(Action::BeginSave),
                !before.is_saving() && after.is_saving(),
                "{at}"
            );
            assert_eq!(
                does(Action::EndSave),
                before.is_saving() && !after.is_saving(),
                "{at}"
            );
            let begins = !before.is_resuming() && after.is_resuming();
            assert_eq!(does(Action::BeginLoad), begins, "{at}");
            let commits = before.is_resuming() && !after.is_resuming();
            assert_eq!(does(Action::CommitLoad), commits, "{at}");
            assert!(
                transition.actions.iter().skip(1).all(|a| !a.is_fallible()),
                "{at}"
            );
        }
    }
}

#[test]
fn p37_a_migration_that_fails_ends_by_side() {
    for end in [Phase::Failed, Phase::Cancelled] {
        for from in [
            Phase::Setup,
            Phase::PreCopy,
            Phase::StopNCopy,
            Phase::SaveCompleted,
        ] {
            let Ok(Arc::Change(transition)) = arc(from, from.state(), end) else {
                panic!("{from:?} to {end:?}");
            };
            assert_eq!(transition.to, State::Running);
        }
        for from in [Phase::Resume, Phase::ResumeCompleted] {
            assert_eq!(arc(from, from.state(), end), Ok(Arc::Reset));
            // A load that failed leaves the device in the error state.
            assert_eq!(arc(from, State::Error, end), Ok(Arc::Reset));
        }
    }
    for to in Phase::ALL {
        if !matches!(to, Phase::Failed | Phase::Cancelled) {
            assert_eq!(
                arc(Phase::Resume, State::Error, to),
                Err(PhaseError::LoadFailed)
            );
        }
    }
}

#[test]
fn p37_ten_numbers_are_states() {
    for number in 0..10 {
        let phase = Phase::from_number(number).unwrap();
        assert_eq!(phase as u32, number);
        assert_eq!(Phase::ALL[number as usize], phase);
    }
    for number in [10, 11, 0x100, u32::MAX] {
        assert_eq!(Phase::from_number(number), Err(PhaseError::Unknown(number)));
    }
}

fn info(initial_bytes: u64, dirty_bytes: u64) -> PrecopyInfo {
    PrecopyInfo {
        initial_bytes,
        dirty_bytes,
        ..PrecopyInfo::default()
    }
}

#[test]
fn p37_pending_is_by_when_it_may_go() {
    let first = pending(Phase::PreCopy, info(100, 20), 500, 1000);
    let expected = Pending {
        precopy_only: 100,
        compatible: 20,
        postcopy_only: 0,
    };
    assert_eq!(first, expected);
    // Once all was sent it is 0, and what changed again may wait, unless it is more than the threshold.
    assert_eq!(
        pending(Phase::PreCopy, info(0, 20), 500, 21).precopy_only,
        0
    );
    assert_eq!(
        pending(Phase::PreCopy, info(0, 20), 500, 20).precopy_only,
        20
    );
    let stopped = pending(Phase::StopNCopy, info(100, 20), 500, 1000);
    let expected = Pending {
        postcopy_only: 500,
        ..Pending::default()
    };
    assert_eq!(stopped, expected);
    for phase in Phase::ALL {
        if !phase.has_data() {
            assert_eq!(pending(phase, info(100, 20), 500, 0), Pending::default());
        }
    }
}

/// The loops of the posted user end for every threshold, with everything sent.
#[test]
fn p37_the_posted_loops_end() {
    for threshold in [0, 1, 99, 100, 101, 5000, u64::MAX] {
        let (mut initial, mut again, buffer) = (10_000u64, 0, 700);
        let mut rounds = 0;
        loop {
            let left = pending(
                Phase::PreCopy,
                info(initial, again),
                initial + again,
                threshold,
            );
            let sum = left.precopy_only + left.compatible + left.postcopy_only;
            assert_eq!(sum, initial + again);
            if sum == 0 || sum < threshold {
                break;
            }
            // The user calls for data only if precopy_only is not 0.
            assert!(left.precopy_only != 0, "{left:?} of {threshold} never ends");
            if initial > 0 {
                initial = initial.saturating_sub(buffer);
                again += 60;
            } else {
                again = again.saturating_sub(buffer);
            }
            rounds += 1;
            assert!(rounds < 100);
        }
        let mut left = initial + again + 300;
        loop {
            let p = pending(Phase::StopNCopy, info(0, 0), left, threshold);
            if p.postcopy_only != 0 {
                left = left.saturating_sub(buffer);
            }
            let p = pending(Phase::StopNCopy, info(0, 0), left, threshold);
            if p.compatible + p.postcopy_only == 0 {
                break;
            }
        }
        assert_eq!(left, 0);
    }
}

#[test]
fn generations_by_name_and_number() {
    for generation in Generation::ALL {
        let name = generation.name();
        assert_eq!(Generation::from_name(name.as_bytes()), Some(generation));
        assert_eq!(Generation::from_number(generation as u32), Some(generation));
        assert_eq!(generation.has_v2(), generation == Generation::default());
    }
    for name in ["", "v", "v2", "V1", "v11", "20", "2018 ", "v7\n"] {
        assert_eq!(Generation::from_name(name.as_bytes()), None, "{name:?}");
    }
    for number in [0, 2, 6, 8, 2017, 2019] {
        assert_eq!(Generation::from_number(number), None);
    }
}
