// SPDX-License-Identifier: GPL-2.0

//! A child process that stops a device.

use vfio_client::v1;

use crate::env::Guest;
use crate::fail;
use crate::fixture::ready::ready;
use crate::fixture::Fixture;
use crate::harness::result::Result;

/// The child process: stops the device, which waits.
pub(crate) fn child(args: &[String]) -> Result {
    let [uuid] = args else {
        fail!("stop takes a uuid");
    };
    let fixture = Fixture::of(Guest::of_uuid(uuid)?)?;
    ready()?;
    fixture.go(&[v1::State::STOP])?;
    fail!("the stop did not wait");
}
