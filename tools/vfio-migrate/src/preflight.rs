// SPDX-License-Identifier: GPL-2.0

//! Asks a device whether it would take a stream, without a load.

use migration::stream::{Identity, IdentityText};
use vfio_client::mdev::Instance;
use vfio_client::Device;

use crate::endpoint::{Protocol, Source};
use crate::error::{Failure, Kind, Result};
use crate::inspect::first_identity;

/// Returns which streams an instance takes, from its `migration_version`, also while it is in use. `None` if its driver
/// has no such attribute.
pub fn version(instance: &Instance) -> Result<Option<IdentityText>> {
    let Some(text) = instance.migration_version()? else {
        return Ok(None);
    };
    let parsed = IdentityText::parse(&text).map_err(|error| {
        let why = format!("its migration_version is {text:?}: {error}");
        Failure::new(
            Kind::NotMigratable,
            vfio_client::Error::other("device", why),
        )
    })?;
    Ok(Some(parsed))
}

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
