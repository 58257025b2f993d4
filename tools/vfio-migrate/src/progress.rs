// SPDX-License-Identifier: GPL-2.0

//! What a transfer tells while it runs.

use std::time::Duration;

use serde::Serialize;

/// Phase of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The source runs. Number of the pass, from 1.
    PreCopy(u32),
    /// The source is stopped.
    StopAndCopy,
    /// A file is loaded.
    Load,
    /// All is sent; the destination adopts it.
    Finish,
}

/// An observer of a transfer, which also does a VMM's other work at the right moments.
pub trait Progress {
    /// A phase or pass begins, with this many bytes to send.
    fn phase(&mut self, _phase: Phase, _pending: u64) {}

    /// A buffer is about to be loaded. The observer may corrupt it.
    fn buffer(&mut self, _buffer: &mut Vec<u8>) {}

    /// A pass of pre-copy has ended. A VMM now copies the guest memory written meanwhile.
    fn pass(&mut self, _pass: &Pass) -> std::result::Result<(), vfio_client::Error> {
        Ok(())
    }

    /// The source is about to stop. A VMM now stops its CPUs.
    fn stopping(&mut self) -> std::result::Result<(), vfio_client::Error> {
        Ok(())
    }

    /// The source has stopped. A VMM now copies the rest of guest memory.
    fn stopped(&mut self) -> std::result::Result<(), vfio_client::Error> {
        Ok(())
    }
}

/// An observer that does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {}

/// One pass of pre-copy: what was left to send when it began.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Pass {
    /// Its number, from 1.
    pub number: u32,
    /// Bytes left when it began.
    pub pending: u64,
    /// What it sent.
    #[serde(flatten)]
    pub sent: PhaseReport,
}

/// What one phase sent.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PhaseReport {
    /// Bytes of stream.
    pub bytes: u64,
    /// Buffers.
    pub buffers: u64,
    /// Duration.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub time: Duration,
}

/// Serializes a duration in seconds.
pub(crate) fn seconds<S: serde::Serializer>(
    t: &Duration,
    s: S,
) -> std::result::Result<S::Ok, S::Error> {
    s.serialize_f64(t.as_secs_f64())
}
