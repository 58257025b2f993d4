// SPDX-License-Identifier: GPL-2.0

//! A walk through all states of a device.

use vfio_client::v1::State;

use crate::outcome::Outcome;
use crate::scene::Scene;

/// The states in the order of the walk.
pub(crate) const STATES: [State; 6] = [
    State::RUNNING,
    State::PRE_COPY,
    State::STOP_AND_COPY,
    State::STOP,
    State::RESUMING,
    State::ERROR,
];

/// Calls `look` in each of [`STATES`]. The device runs before, and afterwards, reset.
pub(crate) fn in_every_state(scene: &Scene, mut look: impl FnMut(State) -> Outcome) -> Outcome {
    for state in STATES {
        if state == State::ERROR {
            // An incomplete stream cannot be committed (P26).
            let refused = scene.migration.write_state(State::RUNNING);
            assert!(refused.is_err(), "left the resuming state without a stream");
        } else {
            scene.go(&[state])?;
        }
        assert_eq!(scene.state()?, state);
        look(state)?;
        assert_eq!(
            scene.state()?,
            state,
            "the state changed while it was looked at"
        );
    }
    scene.device.reset()?;
    assert_eq!(scene.state()?, State::RUNNING);
    Ok(())
}
