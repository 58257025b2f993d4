// SPDX-License-Identifier: GPL-2.0

//! Status codes: the table.

/// A status code with which a command fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table describes the codes")]
pub enum Status {
    InvalidOpcode,
    InvalidField,
    DataTransferError,
    InternalError,
    AbortRequested,
    InvalidNamespace,
    CommandSequenceError,
    InvalidPrpOffset,
    LbaOutOfRange,
    CompletionQueueInvalid,
    InvalidQueueIdentifier,
    InvalidQueueSize,
    EventLimitExceeded,
    InvalidInterruptVector,
    InvalidLogPage,
    InvalidQueueDeletion,
    FeatureNotSaveable,
    FeatureNotOfNamespace,
    WriteFault,
    CompareFailure,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The status.
    pub status: Status,
    /// Its name.
    pub name: &'static str,
    /// Status code type.
    pub sct: u8,
    /// Status code.
    pub sc: u8,
    /// Do not retry: the same command would fail again.
    pub dnr: bool,
    /// When it is returned.
    pub meaning: &'static str,
}

/// The status codes, in the order of [`Status`].
#[rustfmt::skip]
pub const STATUSES: [Row; 20] = [
    Row { status: Status::InvalidOpcode, name: "Invalid Command Opcode", sct: 0, sc: 0x01, dnr: true, meaning: "The table of commands does not have the opcode." },
    Row { status: Status::InvalidField, name: "Invalid Field in Command", sct: 0, sc: 0x02, dnr: true, meaning: "A field has a value that is not supported: fused operations, SGLs, a transfer of more than 2^MDTS pages, an unknown CNS or feature." },
    Row { status: Status::DataTransferError, name: "Data Transfer Error", sct: 0, sc: 0x04, dnr: false, meaning: "Guest memory of the data or of a PRP list is not accessible." },
    Row { status: Status::InternalError, name: "Internal Error", sct: 0, sc: 0x06, dnr: false, meaning: "The storage could not be read." },
    Row { status: Status::AbortRequested, name: "Command Abort Requested", sct: 0, sc: 0x07, dnr: false, meaning: "An Abort command ended the command." },
    Row { status: Status::InvalidNamespace, name: "Invalid Namespace or Format", sct: 0, sc: 0x0b, dnr: true, meaning: "The namespace is not 1." },
    Row { status: Status::CommandSequenceError, name: "Command Sequence Error", sct: 0, sc: 0x0c, dnr: true, meaning: "The number of queues is set while I/O queues exist." },
    Row { status: Status::InvalidPrpOffset, name: "PRP Offset Invalid", sct: 0, sc: 0x13, dnr: true, meaning: "A PRP entry other than the first has an offset in its page, the first one is no multiple of 4, or the pointer to a list is no multiple of 8." },
    Row { status: Status::LbaOutOfRange, name: "LBA Out of Range", sct: 0, sc: 0x80, dnr: true, meaning: "A block is behind the end of the namespace." },
    Row { status: Status::CompletionQueueInvalid, name: "Completion Queue Invalid", sct: 1, sc: 0x00, dnr: true, meaning: "The completion queue of a new submission queue does not exist." },
    Row { status: Status::InvalidQueueIdentifier, name: "Invalid Queue Identifier", sct: 1, sc: 0x01, dnr: true, meaning: "The queue is 0, is too large a number, exists already, or does not exist." },
    Row { status: Status::InvalidQueueSize, name: "Invalid Queue Size", sct: 1, sc: 0x02, dnr: true, meaning: "The queue has fewer than 2 entries or more than CAP.MQES + 1, or CC.IOSQES or CC.IOCQES is illegal." },
    Row { status: Status::EventLimitExceeded, name: "Asynchronous Event Request Limit Exceeded", sct: 1, sc: 0x05, dnr: true, meaning: "More than AERL + 1 requests are outstanding." },
    Row { status: Status::InvalidInterruptVector, name: "Invalid Interrupt Vector", sct: 1, sc: 0x08, dnr: true, meaning: "There is no such vector." },
    Row { status: Status::InvalidLogPage, name: "Invalid Log Page", sct: 1, sc: 0x09, dnr: true, meaning: "The table of log pages does not have the identifier." },
    Row { status: Status::InvalidQueueDeletion, name: "Invalid Queue Deletion", sct: 1, sc: 0x0c, dnr: true, meaning: "A submission queue uses the completion queue." },
    Row { status: Status::FeatureNotSaveable, name: "Feature Identifier Not Saveable", sct: 1, sc: 0x0d, dnr: true, meaning: "No feature can be saved." },
    Row { status: Status::FeatureNotOfNamespace, name: "Feature Not Namespace Specific", sct: 1, sc: 0x0f, dnr: true, meaning: "A feature of the controller is set for a namespace." },
    Row { status: Status::WriteFault, name: "Write Fault", sct: 2, sc: 0x80, dnr: false, meaning: "There is no memory for the block." },
    Row { status: Status::CompareFailure, name: "Compare Failure", sct: 2, sc: 0x85, dnr: true, meaning: "The data of a Compare differ." },
];

impl Status {
    /// Returns the row of this status.
    pub const fn row(self) -> &'static Row {
        static ROWS: [Row; STATUSES.len()] = STATUSES;
        &ROWS[self as usize]
    }

    /// Returns the status field of a completion entry, without the phase tag.
    pub const fn field(self) -> u16 {
        let row = self.row();
        row.sc as u16 | ((row.sct as u16) << 8) | ((row.dnr as u16) << 14)
    }
}

const _: () = {
    let mut i = 0;
    while i < STATUSES.len() {
        assert!(STATUSES[i].status as usize == i);
        i += 1;
    }
};
