// SPDX-License-Identifier: GPL-2.0

//! Events for the host: one JSON object per line.

use std::fmt::Write;

use mdma::Place;
use serde::Serialize;

use crate::footprint::plus;
use crate::options::Options;

/// An event.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event<'a> {
    /// Fewer devices than expected exist. The program waits for the others.
    Waiting {
        /// Milliseconds since the kernel started.
        ms: u64,
        /// Number of devices.
        devices: usize,
    },
    /// The devices are ready and the work begins.
    Ready {
        /// Milliseconds since the kernel started.
        ms: u64,
        /// Number of devices.
        devices: usize,
        /// The devices.
        found: &'a [Found],
        /// The options.
        #[serde(flatten)]
        options: &'a Shown,
    },
    /// Heartbeat: everything works.
    Beat(Totals),
    /// Something is wrong. The program does no more work after this.
    Wrong(&'a Wrong),
    /// All memory and registers were verified.
    Checked(Totals),
    /// The last jobs are done, and nothing writes memory until the next command.
    Held(Totals),
    /// All memory was compared, and is as it must be now.
    Mended(&'a Losses),
    /// As `Checked`, and the devices have no driver now.
    Unbound(Totals),
    /// The kernel panics next.
    Panics,
    /// As `Checked`, after which the guest switches itself off.
    Ended {
        /// Work done.
        #[serde(flatten)]
        totals: Totals,
        /// `clean`, or the first trouble that the guest's kernel logged.
        kernel_log: &'a str,
    },
}

/// The options, as shown.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    irq: &'static str,
    seed: u64,
    memory: u64,
    rate: u64,
}

impl From<&Options> for Shown {
    fn from(options: &Options) -> Self {
        Shown {
            irq: options.irq.name(),
            seed: options.seed,
            memory: options.memory,
            rate: options.rate,
        }
    }
}

/// A device.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// Its PCI address.
    pub pci: String,
    /// Bytes of device memory.
    pub memory: u64,
    /// Bytes of guest memory for its DMA.
    pub blocks: u64,
}

/// Work done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Milliseconds since the kernel started.
    pub ms: u64,
    /// Jobs submitted.
    pub jobs: u64,
    /// Jobs that completed and were verified.
    pub verified: u64,
    /// Bytes that these jobs processed.
    pub bytes: u64,
    /// Bytes that the processor wrote to device memory.
    pub memory_writes: u64,
    /// Bytes of device memory that the processor read and compared.
    pub memory_reads: u64,
    /// Bytes that the processor wrote to DMA memory.
    pub ram_writes: u64,
    /// Interrupts.
    pub interrupts: u64,
    /// Jobs that halted the queue on purpose.
    pub halts: u64,
    /// Jobs on registered memory that completed and were verified.
    pub by_key: u64,
    /// Jobs on memory of another device that completed and were verified.
    pub peer: u64,
    /// Blocks that were mapped at another address.
    pub moved: u64,
    /// Bytes of guest and device memory that `check` and `end` compared.
    pub checked: u64,
}

impl Totals {
    /// Adds the counts of another.
    #[must_use]
    pub fn plus(self, other: Totals) -> Totals {
        Totals {
            ms: self.ms.max(other.ms),
            jobs: self.jobs + other.jobs,
            verified: self.verified + other.verified,
            bytes: self.bytes + other.bytes,
            memory_writes: self.memory_writes + other.memory_writes,
            memory_reads: self.memory_reads + other.memory_reads,
            ram_writes: self.ram_writes + other.ram_writes,
            interrupts: self.interrupts + other.interrupts,
            halts: self.halts + other.halts,
            by_key: self.by_key + other.by_key,
            peer: self.peer + other.peer,
            moved: self.moved + other.moved,
            checked: self.checked + other.checked,
        }
    }
}

/// What differed from what it must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Losses {
    /// Pages of device memory.
    pub device_pages: u64,
    /// Pages of guest memory.
    pub guest_pages: u64,
}

/// A discrepancy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Wrong {
    /// Description.
    pub what: String,
    /// Index of the device, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<usize>,
    /// For guest memory: the IOVA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iova: Option<u64>,
    /// For device memory: the offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The expected value; for memory, some bytes from there on in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// The value found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// Number of compared bytes that differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
    /// The job that showed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
}

/// The result of work.
pub type WrongResult<T = ()> = Result<T, Box<Wrong>>;

impl Wrong {
    /// Makes one from a description only.
    pub fn new(what: impl Into<String>) -> Box<Self> {
        Box::new(Wrong {
            what: what.into(),
            ..Wrong::default()
        })
    }

    /// Makes one from two values that should be equal.
    pub fn values(
        what: impl Into<String>,
        expected: impl ToString,
        found: impl ToString,
    ) -> Box<Self> {
        let mut wrong = Wrong::new(what);
        wrong.expected = Some(expected.to_string());
        wrong.found = Some(found.to_string());
        wrong
    }

    /// Makes one from bytes that should be equal and are not.
    pub fn bytes(
        what: impl Into<String>,
        place: Place,
        expected: &[u8],
        found: &[u8],
    ) -> Box<Self> {
        let differs = |(x, y): (&u8, &u8)| x != y;
        let mut pairs = expected.iter().zip(found);
        let first = pairs.position(differs).unwrap_or(0);
        let show = |bytes: &[u8]| {
            let mut text = String::new();
            for byte in bytes[first..].iter().take(16) {
                let _ = write!(text, "{byte:02x}");
            }
            text
        };
        let mut wrong = Wrong::values(what, show(expected), show(found));
        wrong.bytes = Some(
            expected
                .iter()
                .zip(found)
                .filter(|pair| differs(*pair))
                .count(),
        );
        match plus(place, first as u64) {
            Place::Guest(iova) => wrong.iova = Some(iova),
            Place::Device(offset) => wrong.offset = Some(offset),
            Place::Key { offset, .. } => wrong.offset = Some(offset),
        }
        wrong
    }

    /// Adds the device.
    #[must_use]
    pub fn of(mut self: Box<Self>, device: usize) -> Box<Self> {
        self.device = Some(device);
        self
    }

    /// Adds the job.
    #[must_use]
    pub fn with(mut self: Box<Self>, job: &mdma::Descriptor) -> Box<Self> {
        self.job = Some(format!("{job:x?}"));
        self
    }
}

impl From<mdma::Error> for Box<Wrong> {
    fn from(error: mdma::Error) -> Self {
        Wrong::new(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let line = |event: &Event<'_>| serde_json::to_string(event).unwrap();
        assert!(line(&Event::Beat(Totals::default()))
            .starts_with(r#"{"event":"beat","ms":0,"jobs":0,"#));
        let ended = Event::Ended {
            totals: Totals::default(),
            kernel_log: "clean",
        };
        assert!(line(&ended).ends_with(r#""kernel_log":"clean"}"#));
        let wrong = Wrong::bytes("x", Place::Guest(0x1000), &[1, 2, 3], &[1, 2, 4]);
        assert_eq!(
            line(&Event::Wrong(&wrong)),
            r#"{"event":"wrong","what":"x","iova":4098,"expected":"03","found":"04","bytes":1}"#
        );
    }
}
