// SPDX-License-Identifier: GPL-2.0

//! Sends the state of a device over a link.

use vfio_client::pci::Snapshot;
use vfio_client::Device;

use crate::endpoint::Source;
use crate::error::{Failure, Kind, Result};
use crate::link::{unexpected, Link, Message, PAYLOAD_MAX};
use crate::progress::{Phase, Progress};
use crate::target::Target;
use crate::transfer::{transfer_to, Options, Report};

/// Sends the state of a device to [`receive`](crate::receive()) at the other end. Afterwards the source is stopped.
///
/// After a failure the source runs, with one exception: if the link broke while the other device began to run, the
/// source stays stopped, and the kind of the failure is [`Kind::Undecided`].
pub fn send(
    device: &Device,
    link: &mut Link,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Report> {
    let mut source = Source::new(device, options.protocol, options.access)?;
    transfer_to(&mut source, &mut OverLink { link }, options, progress)
}

/// The device at the other end.
struct OverLink<'a> {
    link: &'a mut Link,
}

impl Target for OverLink<'_> {
    fn resume(&mut self) -> Result<()> {
        self.link.greet()?;
        self.link.greeted()
    }

    fn phase(&mut self, phase: Phase, pending: u64) -> Result<()> {
        match phase {
            Phase::PreCopy(pass) => self.link.send(&Message::Phase(pass, pending)),
            Phase::StopAndCopy => self.link.send(&Message::Phase(0, pending)),
            Phase::Load | Phase::Finish => Ok(()),
        }
    }

    fn stopping(&mut self) -> Result<()> {
        self.link.send(&Message::Switch)?;
        match self.link.receive()? {
            Message::Switch => Ok(()),
            message => Err(unexpected(&message, "Switch")),
        }
    }

    fn load(&mut self, bytes: &[u8]) -> Result<()> {
        self.link.check()?;
        for part in bytes.chunks(PAYLOAD_MAX) {
            self.link.send(&Message::Data(part.to_vec()))?;
        }
        Ok(())
    }

    fn configure(&mut self, snapshot: &Snapshot) -> Result<usize> {
        self.link
            .send(&Message::Config(snapshot.bytes().to_vec()))?;
        // Only the other end knows the number of words.
        Ok(0)
    }

    fn finish(&mut self, _run: bool) -> Result<()> {
        self.link.send(&Message::End)?;
        match self.link.receive()? {
            Message::Ready => {}
            message => return Err(unexpected(&message, "Ready")),
        }
        // A Commit that was not sent in whole does not count at the other end.
        self.link.send(&Message::Commit)?;
        match self.link.receive() {
            Ok(Message::Done) => Ok(()),
            Ok(message) => Err(undecided(unexpected(&message, "Done"))),
            Err(failure) if failure.is_remote() => Err(failure),
            Err(failure) => Err(undecided(failure)),
        }
    }

    fn abandon(&mut self) -> String {
        "the destination resets itself when the link closes".into()
    }
}

/// Only the other end knows whether its device runs.
fn undecided(failure: Failure) -> Failure {
    Failure {
        kind: Kind::Undecided,
        ..failure
    }
    .note("the link broke while the destination began to run; see whether it does")
}
