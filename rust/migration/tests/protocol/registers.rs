// SPDX-License-Identifier: GPL-2.0

//! The register blocks of v7 and 2018, compared with expectations written from their texts.

use migration::fields::{AccessError, Block, Direction, Hit};
use migration::state::State;
use migration::{v2018, v7};

/// Makes every access of a block in every state. `legal` says which are allowed. Returns how many are.
fn every_access<F: Copy + PartialEq + std::fmt::Debug + std::fmt::Display>(
    block: &Block<F>,
    legal: impl Fn(u64, usize, bool, State) -> Option<Vec<F>>,
) -> usize {
    let mut accepted = 0;
    for state in State::ALL {
        for write in [false, true] {
            for offset in 0..=90 {
                for len in 1..=90 {
                    let direction = match write {
                        true => Direction::Write,
                        false => Direction::Read,
                    };
                    let hit = block.decode(offset, len, direction).and_then(|hit| {
                        hit.permits(state)?;
                        Ok(hit)
                    });
                    let at = format!("{len} at {offset}, write: {write}, {state}");
                    match (hit, legal(offset, len, write, state)) {
                        (Ok(Hit { fields, .. }), Some(registers)) => {
                            let found: Vec<F> = fields.iter().map(|f| f.register).collect();
                            assert_eq!(found, registers, "{at}");
                            let width: usize = fields.iter().map(|f| f.width).sum();
                            assert_eq!((fields[0].offset, width), (offset, len), "{at}");
                            accepted += 1;
                        }
                        (Err(error), None) => {
                            assert_eq!(error.errno(), 22);
                            assert!(!error.to_string().is_empty());
                        }
                        (hit, legal) => panic!("{at}: {hit:?}, legal: {legal:?}"),
                    }
                }
            }
        }
    }
    accepted
}

fn is_saving(state: State) -> bool {
    matches!(state, State::PreCopy | State::PreCopyP2p | State::StopCopy)
}

#[test]
fn p36_v7_has_native_width_only_everywhere_in_every_state() {
    use v7::Register::*;
    let accepted = every_access(&v7::BLOCK, |offset, len, write, state| {
        let saving = is_saving(state);
        let (register, read, written) = match (offset, len) {
            (0, 4) => (DeviceState, true, true),
            (4, 4) => (Reserved, true, true),
            (8, 8) => (PendingBytes, true, false),
            (16, 8) => (DataOffset, true, false),
            (24, 8) => (DataSize, true, state == State::Resuming),
            (32, 8) => (StartPfn, false, saving),
            (40, 8) => (PageSize, false, saving),
            (48, 8) => (TotalPfns, false, saving),
            (56, 8) => (CopiedPfns, saving, false),
            _ => return None,
        };
        (if write { written } else { read }).then(|| vec![register])
    });
    // 5 reads and 2 writes in each state, data_size in one, 4 registers in the three that save.
    assert_eq!(accepted, 7 * 8 + 1 + 4 * 3);
    assert_eq!(v7::HEADER_SIZE, 64);
}

#[test]
fn p37_2018_has_fields_and_groups_everywhere_in_every_state() {
    use v2018::Register::*;
    let accepted = every_access(&v2018::BLOCK, |offset, len, write, state| {
        let (saving, resuming) = (is_saving(state), state == State::Resuming);
        let (registers, read, written) = match (offset, len) {
            (0, 4) => (vec![DeviceState], true, true),
            (4, 8) => (vec![PrecopyOnly], true, false),
            (12, 8) => (vec![Compatible], true, false),
            (20, 8) => (vec![PostcopyOnly], true, false),
            (28, 8) => (vec![ThresholdSize], true, true),
            (4, 32) => (
                vec![PrecopyOnly, Compatible, PostcopyOnly, ThresholdSize],
                true,
                false,
            ),
            (36, 8) => (vec![DataOffset], true, resuming),
            (44, 8) => (vec![DataSize], true, resuming),
            (36, 16) => (vec![DataOffset, DataSize], true, resuming),
            (52, 8) => (vec![StartAddr], saving, saving),
            (60, 8) => (vec![Total], saving, saving),
            (68, 8) => (vec![Copied], saving, false),
            (52, 24) => (vec![StartAddr, Total, Copied], saving, saving),
            _ => return None,
        };
        (if write { written } else { read }).then_some(registers)
    });
    // 9 reads and 2 writes in each state, 3 writes in one, 4 reads and 3 writes in the three that save.
    assert_eq!(accepted, 11 * 8 + 3 + 7 * 3);
    assert_eq!((v2018::HEADER_SIZE, v2018::TRAPPED), (76, 77));
}

#[test]
fn refusals_name_the_register_and_the_reason() {
    let read = |offset, len| v7::BLOCK.decode(offset, len, Direction::Read);
    assert_eq!(read(1, 4), Err(AccessError::NoRegister));
    assert_eq!(
        read(8, 4),
        Err(AccessError::Width(v7::Register::PendingBytes))
    );
    assert_eq!(
        read(32, 8),
        Err(AccessError::WriteOnly(v7::Register::StartPfn))
    );
    let write = v7::BLOCK.decode(56, 8, Direction::Write);
    assert_eq!(write, Err(AccessError::ReadOnly(v7::Register::CopiedPfns)));
    let write = v2018::BLOCK.decode(4, 32, Direction::Write);
    let text = write.unwrap_err().to_string();
    assert_eq!(text, "pending.precopy_only is read only");
    let text = v2018::BLOCK.decode(52, 24, Direction::Read).unwrap();
    let text = text.permits(State::Running).unwrap_err().to_string();
    assert_eq!(
        text,
        "dirty_pfns.start_addr is accessible only while saving"
    );
}
