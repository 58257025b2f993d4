// SPDX-License-Identifier: GPL-2.0

//! Receives the state of a device over a link.

use std::time::Instant;

use serde::Serialize;
use vfio_client::pci::Snapshot;
use vfio_client::{v1, Device, Error};

use crate::endpoint::{Destination, Protocol};
use crate::error::{Failure, Kind, Result};
use crate::link::{unexpected, Link, Message, Remote};
use crate::progress::{Phase, PhaseReport, Progress};
use crate::target::Target;

/// Result of a reception.
#[derive(Clone, Debug, Serialize)]
pub struct Received {
    /// The protocol used.
    pub protocol: Protocol,
    /// Received and loaded.
    #[serde(flatten)]
    pub loaded: PhaseReport,
    /// Words of configuration space written.
    pub config_words: usize,
}

/// Loads a device with what [`send`](crate::send()) sends. Afterwards it runs. A failure resets it and is reported to
/// the other end.
pub fn receive(
    device: &Device,
    protocol: Protocol,
    access: Option<v1::Access>,
    link: &mut Link,
    progress: &mut dyn Progress,
) -> Result<Received> {
    let opened = Destination::new(device, protocol, access);
    let result = opened.and_then(|mut destination| {
        let result = run(&mut destination, link, progress);
        result.map_err(|failure| {
            let note = Target::abandon(&mut destination);
            failure.note(note)
        })
    });
    if let Err(failure) = &result {
        // The link may be what failed.
        if link.send(&Message::Failed(Remote::from(failure))).is_ok() {
            link.drain();
        }
    }
    result
}

fn run(
    destination: &mut Destination,
    link: &mut Link,
    progress: &mut dyn Progress,
) -> Result<Received> {
    link.greeted()?;
    Target::resume(destination)?;
    link.greet()?;
    let begin = Instant::now();
    let mut received = Received {
        protocol: destination.protocol(),
        loaded: PhaseReport::default(),
        config_words: 0,
    };
    let mut snapshot = None;
    loop {
        match link.receive()? {
            Message::Phase(0, pending) => progress.phase(Phase::StopAndCopy, pending),
            Message::Phase(pass, pending) => progress.phase(Phase::PreCopy(pass), pending),
            Message::Data(mut bytes) => {
                received.loaded.bytes += bytes.len() as u64;
                received.loaded.buffers += 1;
                progress.buffer(&mut bytes);
                destination.load(&bytes)?;
            }
            Message::Switch => link.send(&Message::Switch)?,
            Message::Config(bytes) => snapshot = Some(config(bytes)?),
            Message::End => break,
            message => return Err(unexpected(&message, "Data")),
        }
    }
    progress.phase(Phase::Finish, 0);
    if let Some(snapshot) = &snapshot {
        received.config_words = destination.configure(snapshot)?;
    }
    Destination::finish(destination)?;
    link.send(&Message::Ready)?;
    match link.receive()? {
        Message::Commit => {}
        message => return Err(unexpected(&message, "Commit")),
    }
    destination.run()?;
    received.loaded.time = begin.elapsed();
    // The device runs, whether or not the other end learns of it.
    let _ = link.send(&Message::Done);
    Ok(received)
}

fn config(bytes: Vec<u8>) -> Result<Snapshot> {
    Snapshot::from_bytes(bytes).ok_or_else(|| {
        let error = Error::other("Config", "not a configuration space");
        Failure::new(Kind::Refused, error)
    })
}
