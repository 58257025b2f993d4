// SPDX-License-Identifier: GPL-2.0

//! Random sequences of legal and illegal register accesses, compared with a model of the protocol.
//!
//! The model follows the text of the protocol, not the driver. It holds the device's state, whether a buffer is staged,
//! and whether the device offered it. `--iterations N` sets the number of accesses, `--seed N` the random seed.

use vfio_client::v1::State;

use crate::env::Env;
use crate::fixture::Fixture;
use crate::harness::result::Result;
use crate::v1::saving::write_pages;
use crate::{assert_errno, note, tests};

tests! { "v1_random_accesses":
    p14_p23_random_accesses_follow_the_model ["P10", "P14", "P16", "P17", "P18", "P19", "P22", "P23", "P26"],
}

/// A staged buffer that the user has not consumed.
#[derive(Clone, Copy, Debug)]
struct Staged {
    size: u64,
    /// The user has read `data_offset` since the device staged the buffer, or since it stopped.
    offered: bool,
}

/// The model of a device.
#[derive(Debug)]
struct Model {
    state: u32,
    staged: Option<Staged>,
}

impl Model {
    fn saving(&self) -> bool {
        matches!(self.state, 0b010 | 0b011)
    }

    /// The result of a write to `device_state`: the new state, or the errno and the state after it.
    fn change(&self, to: u32) -> Result<u32, u32> {
        let legal = match (self.state, to) {
            (0b110, _) => false,
            // A load without data is incomplete (P26).
            (0b100, 0b000 | 0b001) => return Err(0b110),
            (from, to) if from == to => true,
            (0b001, 0b000 | 0b010 | 0b011 | 0b100) => true,
            (0b011, 0b000..=0b010) => true,
            (0b010, 0b000 | 0b001) => true,
            (0b000, 0b001 | 0b010 | 0b100) => true,
            _ => false,
        };
        if legal {
            Ok(to)
        } else {
            Err(self.state)
        }
    }

    /// Updates the model after an accepted change of state.
    fn enter(&mut self, to: u32) {
        if (self.state, to) == (0b011, 0b010) {
            // The device cannot know whether the user read the buffer (P23).
            if let Some(staged) = &mut self.staged {
                staged.offered = false;
            }
        }
        self.state = to;
        if !self.saving() {
            self.staged = None;
        }
    }
}

/// Makes one random access and checks it against the model.
fn access(fixture: &Fixture, model: &mut Model, rng: &mut fastrand::Rng, section: u64) -> Result {
    let migration = &fixture.migration;
    match rng.u32(0..100) {
        0..=29 => {
            let to = if rng.u32(0..20) == 0 {
                rng.u32(8..)
            } else {
                rng.u32(0..8)
            };
            match model.change(to) {
                Ok(to) => {
                    migration.write_state(State(to))?;
                    model.enter(to);
                }
                Err(left) => {
                    assert!(migration.write_state(State(to)).is_err(), "{to:#b}");
                    model.state = left;
                }
            }
        }
        30..=54 => {
            let pending = migration.pending_bytes()?;
            if !model.saving() {
                assert_eq!(pending, 0, "pending_bytes outside a save");
            }
            match model.staged {
                // The device sends the buffer again: it stays pending.
                Some(staged) if !staged.offered => assert!(pending >= staged.size),
                _ => model.staged = None,
            }
            if model.state == 0b011 {
                assert!(
                    pending > 0,
                    "a running device always has its registers to send"
                );
            }
            if model.staged.is_none() {
                // Reading it again has no side effect (P16).
                assert_eq!(migration.pending_bytes()?, pending);
            }
        }
        55..=74 => {
            assert_eq!(migration.data_offset()?, 4096);
            if model.saving() {
                let size = migration.data_size()?;
                assert!(size <= section, "{size}");
                match &mut model.staged {
                    Some(staged) => {
                        assert_eq!(size, staged.size, "the staged buffer changed");
                        staged.offered = true;
                    }
                    None if size > 0 => {
                        model.staged = Some(Staged {
                            size,
                            offered: true,
                        });
                    }
                    None => {}
                }
            }
        }
        75..=86 => {
            let expected = match model.staged {
                Some(staged) if staged.offered => staged.size,
                _ => 0,
            };
            assert_eq!(migration.data_size()?, expected);
        }
        87..=95 => {
            let size = *rng
                .choice(&[0, 1, 8, section, section + 1, u64::MAX])
                .expect("some");
            let done = migration.write_data_size(size);
            // The section does not hold a complete stream, but may hold the start of one.
            if model.state != 0b100 || !(1..=section).contains(&size) {
                assert_errno!(done, EINVAL);
            }
        }
        _ => {
            fixture.device.reset()?;
            *model = Model {
                state: 0b001,
                staged: None,
            };
            // Give the device data to send.
            write_pages(fixture, 0..600, rng.u8(..))?;
        }
    }
    assert_eq!(migration.state()?.0, model.state);
    Ok(())
}

fn p14_p23_random_accesses_follow_the_model(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let section = fixture.section() as u64;
    note!("seed {}", env.limits.seed);
    let mut rng = fastrand::Rng::with_seed(env.limits.seed);
    let mut model = Model {
        state: 0b001,
        staged: None,
    };
    write_pages(&fixture, 0..600, 1)?;
    let (mut staged, mut errors) = (0, 0);
    // The rarest access, one in a hundred, comes ten times.
    for step in 0..env.limits.iterations.max(100) {
        let before = format!("{model:?}");
        if let Err(e) = access(&fixture, &mut model, &mut rng, section) {
            note!("access {step}, the model before it: {before}");
            return Err(e);
        }
        staged += u64::from(model.staged.is_some());
        errors += u64::from(model.state == 0b110);
        // Only a reset leaves the error state, and the walk seldom resets.
        if model.state == 0b110 && rng.u32(0..4) == 0 {
            fixture.device.reset()?;
            model.enter(0b001);
        }
    }
    note!("{staged} accesses with a buffer staged, {errors} in the error state");
    assert!(staged > 0 && errors > 0, "the walk did not reach all cases");
    Ok(())
}
