// SPDX-License-Identifier: GPL-2.0

//! The functions of `vfio-migrate` that no other test uses.

pub(crate) mod preflight;
pub(crate) mod send;

use mdma::regs::Reg;
use mdma::Mdma;

use crate::env::Env;
use crate::fixture::bytes::random_bytes;
use crate::fixture::{Fixture, MdmaFixture};
use crate::harness::result::Result;

/// Device memory that the guest writes.
const USED: usize = 1 << 20;

/// Opens a new instance of this type.
fn open(env: &Env, of: &str) -> Result<MdmaFixture<()>> {
    let guest = env.open(of)?;
    Ok(MdmaFixture {
        mdma: Mdma::open(&guest.device)?,
        fixture: Fixture {
            migration: (),
            guest,
        },
    })
}

/// Gives a device a state to recognise.
fn fill(device: &MdmaFixture<()>) -> Result {
    let mut rng = fastrand::Rng::with_seed(22);
    device.write_memory(0, &random_bytes(&mut rng, USED))?;
    Ok(device.mdma.set(Reg::Scratch, 0x5e4d_0000_0022)?)
}
