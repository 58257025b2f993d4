// SPDX-License-Identifier: GPL-2.0

//! The client of libvfio-user, as it was the last time that it knew v1.
//!
//! The order of accesses is that of `migrate_from()`, `do_migrate()` and `migrate_to()` in `samples/client.c` of
//! libvfio-user at commit 1569a37a54ec (September 2023), one before the change to v2. The client reads at most one piece
//! in pre-copy and one after the stop, and does not read `device_state` back. It changes from RESUMING to RUNNING
//! directly.

use crate::env::Env;
use crate::harness::result::Result;
use crate::tests;
use crate::vmm::access::{there_and_back, Action, At, Step, OFFSET, PENDING, SIZE, STATE};

tests! { "vmm_libvfio_user":
    v1_there_and_back [],
}

/// One round of `do_migrate()`.
const PIECE: &[(At, Action)] = &[
    (OFFSET, Action::Offset),
    (SIZE, Action::Size),
    (At::Trapped, Action::ReadPiece),
    (PENDING, Action::Pending),
];

const SAVE: &[Step] = &[
    Step::Do(&[(STATE, Action::Write(0b011)), (PENDING, Action::Pending)]),
    Step::WhilePending(1, PIECE),
    Step::Guest,
    Step::Do(&[(STATE, Action::Write(0b010)), (PENDING, Action::Pending)]),
    Step::WhilePending(1, PIECE),
    Step::Do(&[(STATE, Action::Write(0b000))]),
];

const LOAD: &[Step] = &[
    Step::Do(&[(STATE, Action::Write(0b100))]),
    Step::EachPiece(&[
        (OFFSET, Action::Offset),
        (At::Trapped, Action::WritePiece),
        (SIZE, Action::WriteSize),
    ]),
    Step::Do(&[(STATE, Action::Write(0b001))]),
];

fn v1_there_and_back(env: &Env) -> Result {
    // Each phase fits in one piece.
    there_and_back(env, SAVE, LOAD, 20, |_, pieces| {
        assert_eq!(pieces.len(), 2, "the client expects two pieces");
        pieces
    })
}
