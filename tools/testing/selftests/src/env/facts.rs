// SPDX-License-Identifier: GPL-2.0

//! What the tests find out about the device under test before they run.

use std::sync::OnceLock;

use contents::{Mappable, Register};
use vfio_migrate::Protocol;

use crate::env::Guest;
use crate::harness::result::{Ended, Result};

/// The facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// A register that keeps what is written.
    pub(crate) mark: Register,
    /// The most bytes that the driver's state has.
    pub(crate) state_size_max: u64,
    /// Device memory, if the device has any in a BAR.
    pub(crate) memory: Option<Mappable>,
}

static FACTS: OnceLock<Facts> = OnceLock::new();

/// Returns the facts, once they have been found out.
pub(crate) fn known() -> Result<&'static Facts> {
    FACTS
        .get()
        .ok_or_else(|| Ended::failed("nothing is known about the device yet"))
}

/// Finds out the facts with this device, which is reset, and keeps them for [`known`].
pub(crate) fn find(guest: &Guest) -> Result {
    guest.device.config()?.enable()?;
    let identity = vfio_migrate::identity(&guest.device, Protocol::Auto)?;
    let facts = Facts {
        mark: Register::find(&guest.device)?,
        state_size_max: identity.state_size_max.into(),
        memory: Mappable::find(&guest.device)?,
    };
    crate::note!("{facts:?}");
    FACTS.get_or_init(|| facts);
    Ok(())
}
