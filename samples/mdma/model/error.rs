// SPDX-License-Identifier: GPL-2.0

//! The error codes of jobs and of the queue.

/// Why a job failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs)]
pub enum Error {
    None = 0,
    BadOp = 1,
    BadFlags = 2,
    BadLength = 3,
    BadReserved = 4,
    SrcRange = 5,
    DstRange = 6,
    SrcFault = 7,
    DstFault = 8,
    RingFault = 9,
    CompletionFault = 10,
    MemoryFault = 11,
    BadList = 12,
    ListFault = 13,
    BadTail = 14,
}

/// The error codes in the order of their numbers: name, meaning.
#[rustfmt::skip]
pub const ERRORS: [(Error, &str, &str); 15] = [
    (Error::None, "NONE", "Success."),
    (Error::BadOp, "BAD_OP", "The operation does not exist."),
    (Error::BadFlags, "BAD_FLAGS", "An unknown flag, or one that the operation does not support; or both DEVICE and LIST for one side."),
    (Error::BadLength, "BAD_LENGTH", "len is 0 or above 2^32; or not 0 for NOP."),
    (Error::BadReserved, "BAD_RESERVED", "A reserved byte is not 0, or the number of entries of a side without a list."),
    (Error::SrcRange, "SRC_RANGE", "The source, or an entry of its list, is not inside the device memory."),
    (Error::DstRange, "DST_RANGE", "The destination, or an entry of its list, is not inside the device memory."),
    (Error::SrcFault, "SRC_FAULT", "Guest memory at src is not mapped or not readable, or src + len is beyond 2^64."),
    (Error::DstFault, "DST_FAULT", "Guest memory at dst is not mapped or not writable, or dst + len is beyond 2^64."),
    (Error::RingFault, "RING_FAULT", "The ring is not mapped. There is no completion record."),
    (Error::CompletionFault, "COMPLETION_FAULT", "The completion records are not mapped or not writable. There is no completion record."),
    (Error::MemoryFault, "MEMORY_FAULT", "The device has no page for its memory: the host is out of memory."),
    (Error::BadList, "BAD_LIST", "A list of no entries or more than 4096, not aligned to 16 bytes, or beyond 2^64; an entry with a length of 0 or an unknown flag; or a list that ends before len."),
    (Error::ListFault, "LIST_FAULT", "A list is not mapped or not readable."),
    (Error::BadTail, "BAD_TAIL", "Software wrote an invalid value to TAIL: see there. Uncompleted jobs are dropped, without completion records."),
];

impl Error {
    /// Returns the error with this number.
    pub fn from_raw(raw: u32) -> Option<Error> {
        ERRORS.get(usize::try_from(raw).ok()?).map(|row| row.0)
    }

    /// Returns the name of the error in the manual.
    pub fn name(self) -> &'static str {
        ERRORS[self as usize].1
    }
}

// The table is in the order of the numbers.
const _: () = {
    let mut i = 0;
    while i < ERRORS.len() {
        assert!(ERRORS[i].0 as usize == i);
        i += 1;
    }
};
