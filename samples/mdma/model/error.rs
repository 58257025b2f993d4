// SPDX-License-Identifier: GPL-2.0

//! The error codes of jobs and of the queue.

use crate::table::table;

/// The result of a unit, of a part of it, or of a check before it.
pub(crate) type Result<T = (), E = Error> = core::result::Result<T, E>;

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct ErrorCode {
    /// The error. Its number is the code.
    pub error: Error,
    /// Its name in the manual.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

table! {
    /// Why a job failed.
    pub enum Error;
    /// The error codes in the order of their numbers.
    pub const ERRORS: [ErrorCode; _] = [
        None { name: "NONE", meaning: "Success." }
        BadOp { name: "BAD_OP", meaning: "The operation does not exist." }
        BadFlags { name: "BAD_FLAGS", meaning: "An unknown flag, or one that the operation does not support; more than one of DEVICE, LIST and KEY for one side; or an unknown access of REGISTER." }
        BadLength { name: "BAD_LENGTH", meaning: "len is 0 or above the limit of the operation; or not 0 for NOP and DEREGISTER." }
        BadReserved { name: "BAD_RESERVED", meaning: "The number of entries of a side without a list is not 0, or the key of a side without KEY." }
        SrcRange { name: "SRC_RANGE", meaning: "The source, or an entry of its list, is not inside the device memory." }
        DstRange { name: "DST_RANGE", meaning: "The destination, or an entry of its list, is not inside the device memory." }
        SrcFault { name: "SRC_FAULT", meaning: "Guest memory at src is not mapped or not readable, or src + len is beyond 2^64." }
        DstFault { name: "DST_FAULT", meaning: "Guest memory at dst is not mapped or not writable, or dst + len is beyond 2^64." }
        RingFault { name: "RING_FAULT", meaning: "The ring is not mapped. There is no completion record." }
        CompletionFault { name: "COMPLETION_FAULT", meaning: "The completion records are not mapped or not writable. There is no completion record." }
        MemoryFault { name: "MEMORY_FAULT", meaning: "The device has no page for its memory: the host is out of memory." }
        BadList { name: "BAD_LIST", meaning: "A list of no entries or more than 4096, not aligned to 16 bytes, or beyond 2^64; an entry with a length of 0 or an unknown flag; or a list that ends before len." }
        ListFault { name: "LIST_FAULT", meaning: "A list is not mapped or not readable." }
        BadTail { name: "BAD_TAIL", meaning: "Software wrote an invalid value to TAIL: see there. Uncompleted jobs are dropped, without completion records." }
        BadKey { name: "BAD_KEY", meaning: "No memory of this device has the key." }
        KeyRange { name: "KEY_RANGE", meaning: "A byte is outside the registered memory, or offset + len is beyond 2^64." }
        KeyAccess { name: "KEY_ACCESS", meaning: "The job writes to memory that is registered for reading." }
        KeyUnmapped { name: "KEY_UNMAPPED", meaning: "A part of the registered memory was unmapped. The key is of no use any more; deregister it." }
        RegisterFault { name: "REGISTER_FAULT", meaning: "A part of the memory is not mapped, does not allow the access, or cannot be pinned, as a shared mapping of a file or another device's BAR. Nothing is pinned." }
        RegisterLimit { name: "REGISTER_LIMIT", meaning: "The device has 2^CAPS.KEY_ORDER keys, or 256 GiB of registered memory. Nothing is pinned." }
        RegisterNoMemory { name: "REGISTER_NO_MEMORY", meaning: "The user may lock no more memory, or there is none. For ten seconds after that, nothing is registered. Nothing is pinned." }
        RegisterBusy { name: "REGISTER_BUSY", meaning: "A part of the memory is being unmapped, and that does not end. Nothing is pinned." }
    ] by error;
}

impl Error {
    /// Returns the error with this number.
    pub fn from_raw(raw: u32) -> Option<Error> {
        let mut errors = ERRORS.iter().map(|row| row.error);
        errors.find(|&error| error as u32 == raw)
    }

    /// Returns this error unless `legal`.
    pub(crate) fn unless(self, legal: bool) -> Result {
        legal.then_some(()).ok_or(self)
    }
}
