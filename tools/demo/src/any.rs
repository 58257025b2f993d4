// SPDX-License-Identifier: GPL-2.0

//! The migration of a device of any kind: it is filled, moved to a second one, and compared.
//!
//! There is no guest, so nobody but this program uses the device. It writes between the passes of pre-copy, where a
//! guest would write all the time.

use contents::{find_type, smallest_type};
use serde::Serialize;
use vfio_client::mdev::{Removed, Sysfs, Type, Uuid};
use vfio_client::{Container, Device};
use vfio_migrate::format::{bytes, time};
use vfio_migrate::{transfer, Kind, Options, Pass, Phase, Progress, Protocol, Report, Until};

use crate::compare;
use crate::error::{fail, Error, Result};
use crate::flip::Flip;
use crate::inventory::{listed, Amount, Inventory, Parts};
use crate::out::Out;

/// What to demonstrate.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Name of the device.
    pub(crate) device: String,
    /// Its type; `None` for the smallest.
    pub(crate) kind: Option<String>,
    /// The protocols, one after the other.
    pub(crate) protocols: Vec<Protocol>,
    /// Bytes of memory to use.
    pub(crate) used: u64,
    /// Number of pre-copy passes.
    pub(crate) passes: u32,
    /// Seed of the random numbers.
    pub(crate) seed: u64,
    /// Flip a bit of the stream.
    pub(crate) corrupt: bool,
}

/// A migration.
#[derive(Debug, Serialize)]
pub(crate) struct Moved {
    #[serde(flatten)]
    pub(crate) report: Report,
    /// What has arrived and is equal.
    #[serde(flatten)]
    pub(crate) amount: Amount,
    /// Bytes of configuration space that are equal.
    pub(crate) config: usize,
}

/// A corruption that the destination has detected.
#[derive(Debug, Serialize)]
pub(crate) struct Caught {
    pub(crate) protocol: Protocol,
    /// The flipped bit, and the size of its buffer in bytes.
    pub(crate) bit: usize,
    pub(crate) buffer: usize,
    /// How the destination refused it.
    pub(crate) refusal: String,
    pub(crate) errno: Option<&'static str>,
}

/// How a migration ended.
#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Migrated(Box<Moved>),
    CorruptionCaught(Caught),
}

/// An opened instance. Fields drop in this order: the instance is closed before it is removed.
struct Opened {
    device: Device,
    _instance: Removed,
}

impl Opened {
    fn new(kind: &Type) -> Result<Self> {
        let instance = Removed(kind.create(&Uuid::random()?)?);
        Ok(Opened {
            device: instance.0.open(&Container::open()?)?,
            _instance: instance,
        })
    }

    fn named(name: &str, kind: &Type, out: Out) -> Result<Self> {
        let opened = Self::new(kind)?;
        let group = opened.device.group().number();
        out.line(
            name,
            format!("{}  {}, group {group}", opened.device.name(), kind.id),
        );
        Ok(opened)
    }
}

/// Writes to the source after each pass.
struct Writer<'a, 'p> {
    source: &'a Device,
    inventory: &'a mut Inventory<'p>,
    flip: Flip,
    out: Out,
}

impl Progress for Writer<'_, '_> {
    fn phase(&mut self, phase: Phase, _pending: u64) {
        self.flip.phase(phase);
    }

    fn buffer(&mut self, buffer: &mut Vec<u8>) {
        self.flip.buffer(buffer);
    }

    fn pass(&mut self, pass: &Pass) -> vfio_client::Result<()> {
        let failed = |e: Error| vfio_client::Error::other("write to the source", e.0);
        let written = self.inventory.change(self.source).map_err(failed)?;
        self.out.line(
            "pre-copy",
            format!(
                "pass {}: {} of device state in {}; then written again: {}",
                pass.number,
                bytes(pass.sent.bytes),
                time(pass.sent.time),
                written.text(),
            ),
        );
        Ok(())
    }
}

/// Moves the device by each protocol.
pub(crate) fn run(settings: &Settings, out: Out) -> Result<Vec<Outcome>> {
    let sysfs = Sysfs::default();
    let kind = match &settings.kind {
        Some(kind) => find_type(&sysfs, &settings.device, kind)?,
        None => smallest_type(&sysfs, &settings.device)?,
    };
    let parts = Parts::find(&Opened::new(&kind)?.device)?;
    out.line("registers", parts.describe_registers());
    match parts.memory {
        Some(place) => out.line(place.name(), bytes(parts.size)),
        None => out.line("device memory", "none"),
    }
    let protocols = settings.protocols.iter();
    protocols
        .map(|protocol| {
            out.blank();
            out.line("protocol", name(*protocol));
            by(*protocol, &kind, &parts, settings, out)
        })
        .collect()
}

/// Returns the name of a protocol.
pub(crate) fn name(protocol: Protocol) -> String {
    format!("{protocol:?}").to_lowercase()
}

/// Moves it by one protocol, between two new instances.
fn by(
    protocol: Protocol,
    kind: &Type,
    parts: &Parts,
    settings: &Settings,
    out: Out,
) -> Result<Outcome> {
    let source = Opened::named("source", kind, out)?;
    let destination = Opened::named("destination", kind, out)?;
    let (source, destination) = (&source.device, &destination.device);
    let empty = Inventory::new(parts, 0, 0);
    empty.check(destination)?;

    let mut inventory = Inventory::new(parts, settings.used, settings.seed);
    inventory.fill(source)?;
    let amount = inventory.amount();
    out.line("source", format!("written: {}", amount.text()));

    let options = Options {
        protocol,
        until: Until::Passes(settings.passes),
        ..Options::default()
    };
    let mut writer = Writer {
        source,
        inventory: &mut inventory,
        flip: Flip::new(settings.corrupt),
        out,
    };
    let result = transfer(source, destination, &options, &mut writer);
    if let Some((bit, buffer)) = writer.flip.done {
        let failure = match result {
            Ok(_) => fail!("the destination did not detect a flipped bit: bit {bit} of a buffer of {buffer} bytes"),
            Err(failure) if failure.kind != Kind::Refused => return Err(failure.into()),
            Err(failure) => failure,
        };
        out.line("refused", failure.to_string());
        inventory.check(source)?;
        out.line(
            "source",
            format!("continues, and has kept {}", amount.text()),
        );
        empty.check(destination)?;
        works(destination, parts, settings, out)?;
        return Ok(Outcome::CorruptionCaught(Caught {
            protocol,
            bit,
            buffer,
            refusal: failure.to_string(),
            errno: failure.error.errno_name(),
        }));
    }
    let report = result?;
    if settings.corrupt {
        fail!("nothing was sent while the source was stopped, so there was no bit to flip");
    }
    out.line(
        "stop-and-copy",
        format!("{} of device state", bytes(report.stop_and_copy.bytes)),
    );
    let config = compare::config(source, destination)?;
    inventory.check(destination)?;
    out.line(
        "compared",
        format!("equal in every byte: {}", compared(&amount, config)),
    );
    if let Some(values) = inventory.describe_values() {
        out.line("arrived", values);
    }
    works(destination, parts, settings, out)?;
    Ok(Outcome::Migrated(Box::new(Moved {
        report,
        amount,
        config,
    })))
}

/// Lists what was compared.
pub(crate) fn compared(amount: &Amount, config: usize) -> String {
    let mut list = amount.list();
    list.insert(
        usize::from(amount.registers > 0),
        format!("{config} bytes of configuration"),
    );
    listed(&list)
}

/// Writes everything again at the destination, and reads it back.
fn works(destination: &Device, parts: &Parts, settings: &Settings, out: Out) -> Result<()> {
    let mut inventory = Inventory::new(parts, settings.used, settings.seed ^ 1);
    inventory.fill(destination)?;
    inventory.check(destination)?;
    out.line(
        "destination",
        format!(
            "works; written and read back: {}",
            inventory.amount().text()
        ),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use contents::Place;

    #[test]
    fn what_was_compared_in_words() {
        let amount = |registers, memory| Amount {
            registers,
            memory,
            place: Some(Place::Storage),
        };
        for (amount, text) in [
            (amount(1, 0), "1 register and 256 bytes of configuration"),
            (
                amount(2, 48 << 20),
                "2 registers, 256 bytes of configuration and 48.0 MiB of storage",
            ),
            (
                amount(0, 48 << 20),
                "256 bytes of configuration and 48.0 MiB of storage",
            ),
        ] {
            assert_eq!(compared(&amount, 256), text);
        }
        assert_eq!([Protocol::V1, Protocol::V2].map(name), ["v1", "v2"]);
    }
}
