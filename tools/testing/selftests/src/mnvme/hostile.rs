// SPDX-License-Identifier: GPL-2.0

//! A driver that writes anything anywhere.

use mnvme::command::Command;
use mnvme::{DATA, DATA_SIZE, MEMORY};
use mnvme_model::regs::{Reg, DOORBELLS, WINDOW};

use super::{Loaded, Nvme, BLOCKS, PAGE};
use crate::env::Env;
use crate::harness::result::Result;
use crate::tests;

tests! { "mnvme_hostile" needs [Mdma]:
    random_commands [],
    random_registers [],
}

/// An address: in the data, in the queues, of the device's registers in a guest, or anywhere.
fn address() -> u64 {
    match fastrand::u8(..5) {
        0 => fastrand::u64(..),
        1 => MEMORY + fastrand::u64(..0x20_0000),
        2 => u64::MAX - fastrand::u64(..0x2000),
        _ => DATA + fastrand::u64(..DATA_SIZE as u64) / PAGE * PAGE,
    }
}

fn command() -> Command {
    let small = |limit: u32| {
        if fastrand::bool() {
            fastrand::u32(..limit)
        } else {
            fastrand::u32(..)
        }
    };
    let block = BLOCKS as u32;
    Command {
        opcode: if fastrand::u8(..8) == 0 {
            fastrand::u8(..)
        } else {
            fastrand::u8(..13)
        },
        nsid: if fastrand::u8(..8) == 0 {
            fastrand::u32(..)
        } else {
            1
        },
        prp1: address(),
        prp2: address(),
        dwords: [
            small(block),
            fastrand::u32(..2),
            small(300),
            small(16),
            small(16),
            small(16),
        ],
    }
}

fn random_commands(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut nvme = Nvme::enabled(env, 8)?;
    for _ in 0..300 {
        for _ in 0..20 {
            let queue = fastrand::usize(..9);
            nvme.driver.put(queue, &command());
            nvme.driver.ring_tail(queue)?;
        }
        for queue in 0..9 {
            while nvme.driver.take(queue)?.is_some() {}
        }
        // The data may have been written to the queues, so the controller may have failed.
        if nvme.driver.read(Reg::Csts)? != 1 || fastrand::u8(..16) == 0 {
            nvme.driver.enable(8)?;
        }
    }
    nvme.driver.enable(8)?;
    nvme.write(0, &[1; 512])
}

fn random_registers(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut nvme = Nvme::enabled(env, 8)?;
    for _ in 0..20_000 {
        let offset = match fastrand::bool() {
            true => DOORBELLS + fastrand::u64(..80),
            false => fastrand::u64(..WINDOW - 8),
        };
        let value = match fastrand::u8(..3) {
            0 => fastrand::u64(..),
            1 => fastrand::u64(..64),
            _ => 1 << fastrand::u8(..64),
        };
        let bytes = value.to_le_bytes();
        let len = [1, 2, 4, 4, 4, 8][fastrand::usize(..6)];
        nvme.driver.bar().write(offset, &bytes[..len])?;
        let mut out = [0; 8];
        nvme.driver
            .bar()
            .read(fastrand::u64(..WINDOW - 8), &mut out[..len])?;
    }
    nvme.driver.enable(8)?;
    nvme.write(0, &[1; 512])
}
