// SPDX-License-Identifier: GPL-2.0

//! Asks a device whether it would take a stream, without a load.

use migration::stream::Identity;
use vfio_client::Device;

use crate::endpoint::{Protocol, Source};
use crate::error::{Failure, Kind, Result};
use crate::inspect::first_identity;

/// Returns the identity of a device, which a stream must match.
///
/// It is the first record of the device's own stream. The save is cancelled, and the device runs afterwards.
pub fn identity(device: &Device, protocol: Protocol) -> Result<Identity> {
    let mut source = Source::new(device, protocol, None)?;
    let first = first_buffer(&mut source);
    let resumed = source.run();
    let identity = first_identity(&first?).map_err(|error| {
        let why = format!("its stream does not begin with an identity: {error}");
        Failure::new(
            Kind::NotMigratable,
            vfio_client::Error::other("device", why),
        )
    });
    resumed?;
    identity
}

fn first_buffer(source: &mut Source) -> Result<Vec<u8>> {
    match source.has_pre_copy() {
        true => source.pre_copy()?,
        false => source.stop_and_copy()?,
    }
    let mut buffer = Vec::new();
    source.next(&mut buffer)?;
    Ok(buffer)
}
