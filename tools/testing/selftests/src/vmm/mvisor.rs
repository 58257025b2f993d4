// SPDX-License-Identifier: GPL-2.0

//! mvisor: stops the device, saves it, and loads it in pieces of its own.
//!
//! The order of accesses is that of `SaveDeviceStateV1()`, `LoadDeviceStateV1()`, their counterparts for v2, `LoadState()`
//! and the listener of state changes in `devices/vfio/vfio_pci.cc` of mvisor at commit f02140149d00 (July 2025). It has
//! no pre-copy of the device. It copies data through the mapping, and reads the file that it has saved in pieces as large
//! as the mapping, whatever the pieces were when it saved. It writes configuration space before RESUMING, goes from
//! RESUMING to STOP, and closes the data file of v2 before that.

use vfio_client::v2::State;

use crate::env::Env;
use crate::fixture::v2::V2;
use crate::fixture::Fixture;
use crate::harness::result::Result;
use crate::tests;
use crate::vmm::access::{
    expect_moved, fill, there_and_back, write_config, Action, At, Step, OFFSET, PENDING, SIZE,
    STATE,
};

tests! { "vmm_mvisor":
    v1_there_and_back [],
    v2_there_and_back [],
}

/// Pages with contents: more than the data section holds.
const PAGES: u64 = 700;

const SAVE: &[Step] = &[
    // The machine is paused.
    Step::Do(&[(STATE, Action::Write(0b000))]),
    Step::Do(&[(STATE, Action::Write(0b010)), (PENDING, Action::Pending)]),
    Step::WhilePending(
        usize::MAX,
        &[
            (OFFSET, Action::Offset),
            (SIZE, Action::Size),
            (At::Mapped, Action::ReadPiece),
            (PENDING, Action::Pending),
        ],
    ),
    Step::Do(&[(STATE, Action::Write(0b000))]),
];

const LOAD: &[Step] = &[
    Step::Do(&[(STATE, Action::Write(0b000))]),
    Step::Config,
    Step::Do(&[(STATE, Action::Write(0b100))]),
    Step::EachPiece(&[
        (OFFSET, Action::Offset),
        (At::Mapped, Action::WritePiece),
        (SIZE, Action::WriteSize),
    ]),
    Step::Do(&[(STATE, Action::Write(0b000))]),
    // The machine is resumed.
    Step::Do(&[(STATE, Action::Write(0b001))]),
];

fn v1_there_and_back(env: &Env) -> Result {
    there_and_back(env, SAVE, LOAD, PAGES, |to, pieces| {
        let file = pieces.concat();
        file.chunks(to.section()).map(<[u8]>::to_vec).collect()
    })
}

/// The buffer of `SaveDeviceStateV2()`.
const BUFFER: usize = 1 << 20;

fn save_v2(from: &V2) -> Result<Vec<u8>> {
    from.to(State::STOP)?;
    let file = from.begin(State::STOP_COPY)?;
    let mut data = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            size => data.extend(&buffer[..size]),
        }
    }
    drop(file);
    from.to(State::STOP)?;
    Ok(data)
}

fn load_v2(to: &V2, data: &[u8], config: &[u8]) -> Result {
    to.to(State::STOP)?;
    write_config(to, config)?;
    let file = to.begin(State::RESUMING)?;
    for piece in data.chunks(BUFFER) {
        // It expects that a write takes everything.
        assert_eq!(file.write(piece)?, piece.len(), "a short write");
    }
    drop(file);
    to.to(State::STOP)?;
    to.to(State::RUNNING)
}

fn v2_there_and_back(env: &Env) -> Result {
    let (here, there) = (V2::new(env)?, V2::new(env)?);
    fill(&here, 0..PAGES, 1)?;
    for (from, to, when) in [(&here, &there, "there"), (&there, &here, "back")] {
        let data = save_v2(from)?;
        let config = from.device.config()?.snapshot()?;
        load_v2(to, &data, config.bytes())?;
        let (left, reached): (&Fixture, &Fixture) = (from, to);
        expect_moved(left, reached, when)?;
        from.device.reset()?;
        from.device.config()?.enable()?;
        fill(to, 5..PAGES + 5, 3)?;
    }
    Ok(())
}
