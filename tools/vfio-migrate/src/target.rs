// SPDX-License-Identifier: GPL-2.0

//! Where the state of a device goes: a device here, or one at the other end of a link.

use vfio_client::pci::Snapshot;

use crate::endpoint::Destination;
use crate::error::{Failure, Kind, Result};
use crate::progress::Phase;

/// The receiving side of a transfer.
pub(crate) trait Target {
    /// Prepares it for the stream.
    fn resume(&mut self) -> Result<()>;

    /// A phase or pass begins, with this many bytes to send.
    fn phase(&mut self, _phase: Phase, _pending: u64) -> Result<()> {
        Ok(())
    }

    /// The source is about to stop. Fails if the target has refused what it was sent.
    fn stopping(&mut self) -> Result<()> {
        Ok(())
    }

    /// Takes the next bytes of the stream.
    fn load(&mut self, bytes: &[u8]) -> Result<()>;

    /// Writes configuration space, and returns the number of words changed. All of the stream was sent.
    fn configure(&mut self, snapshot: &Snapshot) -> Result<usize>;

    /// Adopts the state, and runs the device if `run`.
    fn finish(&mut self, run: bool) -> Result<()>;

    /// Discards the state, and says what happened to it.
    fn abandon(&mut self) -> String;
}

impl Target for Destination {
    fn resume(&mut self) -> Result<()> {
        Destination::resume(self)
    }

    fn load(&mut self, bytes: &[u8]) -> Result<()> {
        Destination::load(self, bytes)
    }

    fn configure(&mut self, snapshot: &Snapshot) -> Result<usize> {
        if !self.device().info().is_pci() {
            return Ok(0);
        }
        let config = self.device().config()?;
        config
            .restore(snapshot)
            .map_err(|e| Failure::new(Kind::Refused, e))
    }

    fn finish(&mut self, run: bool) -> Result<()> {
        match run {
            true => self.run(),
            false => Destination::finish(self),
        }
    }

    fn abandon(&mut self) -> String {
        match Destination::abandon(self) {
            Ok(()) => "the destination was reset".into(),
            Err(e) => format!("the destination is unusable: {e}"),
        }
    }
}
