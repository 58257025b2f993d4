// SPDX-License-Identifier: GPL-2.0

//! Asynchronous events.
//!
//! An event is reported once. After that, events of its type are not reported until software has read
//! the log page of the type.

use crate::log;
use crate::status::Status;

/// The most requests that can be outstanding.
pub const REQUESTS_MAX: usize = 4;

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A write to the doorbell of a queue that does not exist.
    InvalidRegister,
    /// An invalid value was written to a doorbell.
    InvalidValue,
    /// A temperature is outside its thresholds.
    Temperature,
}

/// All events, in the order of their bits in [`Events::pending`].
pub const ALL: [Event; 3] = [
    Event::InvalidRegister,
    Event::InvalidValue,
    Event::Temperature,
];

/// Type of an event: error status.
const ERROR: u8 = 0;
/// Type of an event: SMART and health status.
const SMART: u8 = 1;

impl Event {
    /// Returns the type, the information, and the log page to read.
    const fn describe(self) -> (u8, u8, u8) {
        match self {
            Event::InvalidRegister => (ERROR, 0x00, log::ERRORS),
            Event::InvalidValue => (ERROR, 0x01, log::ERRORS),
            Event::Temperature => (SMART, 0x01, log::SMART),
        }
    }

    /// Returns dword 0 of the completion.
    pub const fn dword(self) -> u32 {
        let (kind, information, page) = self.describe();
        kind as u32 | ((information as u32) << 8) | ((page as u32) << 16)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The events of a controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// The command identifiers of the outstanding requests, the oldest first.
    pub requests: [u16; REQUESTS_MAX],
    /// How many there are.
    pub count: u8,
    /// The events that occurred and were not reported: a bit for each of [`ALL`].
    pub pending: u8,
    /// The types that are not reported: a bit for each.
    pub masked: u8,
}

impl Events {
    /// Adds a request.
    pub(crate) fn request(&mut self, cid: u16) -> Result<(), Status> {
        let slot = self.requests.get_mut(usize::from(self.count));
        *slot.ok_or(Status::EventLimitExceeded)? = cid;
        self.count += 1;
        Ok(())
    }

    /// Notes that an event has occurred.
    pub(crate) fn raise(&mut self, event: Event) {
        self.pending |= event.bit();
    }

    /// Returns the event that is to be reported, if there is a request for it.
    pub(crate) fn due(&self) -> Option<Event> {
        let reportable = |event: &&Event| {
            self.pending & event.bit() != 0 && self.masked & (1 << event.describe().0) == 0
        };
        ALL.iter()
            .find(reportable)
            .filter(|_| self.count != 0)
            .copied()
    }

    /// Takes the oldest request to report `event`. Returns its command identifier.
    pub(crate) fn report(&mut self, event: Event) -> u16 {
        let cid = self.requests[0];
        self.requests.rotate_left(1);
        self.requests[REQUESTS_MAX - 1] = 0;
        self.count = self.count.saturating_sub(1);
        self.pending &= !event.bit();
        self.masked |= 1 << event.describe().0;
        cid
    }

    /// Software has read a log page, and did not ask to retain the event.
    pub(crate) fn acknowledge(&mut self, page: u8) {
        for event in ALL {
            let (kind, _, log) = event.describe();
            if log == page && self.masked & (1 << kind) != 0 {
                self.masked &= !(1 << kind);
            }
        }
    }
}
