// SPDX-License-Identifier: GPL-2.0

//! The bytes of a saved device (P49-P51), the same in v1 and v2. All numbers are little endian.
//!
//! A stream is a sequence of records, each a header of 32 bytes and a payload:
//!
//! ```text
//!   offset  size  field
//!        0     2  kind
//!        2     2  flags        bit 0 OPTIONAL  a reader that does not know the kind or the
//!                                              number of the part skips the record
//!                              bit 1 START     first record of a buffer
//!                              bit 2 AGAIN     with START: the buffer may have been read before
//!                              bit 3 UNCHECKED only of MEMORY: payload_crc is 0, nothing checks the payload
//!        4     4  length       of the payload, in bytes
//!        8     8  sequence     0, 1, 2, ...
//!       16     8  position     the kind says in what
//!       24     4  payload_crc  CRC-32C of the payload
//!       28     4  header_crc   CRC-32C of the 28 bytes before it
//!
//!   kind  name      position                payload
//!      1  IDENTITY  0                       56 bytes, below; the first record and no other
//!      2  MEMORY    byte in device memory   whole pages of device memory
//!      3  ZERO      byte in device memory   u64: so many bytes from there read 0
//!      4  DEVICE    byte in device's state  a piece of it, in order and without gaps
//!      5  END       0                       40 bytes, below; last
//!      6  PART      number of the part      a part of the device's state, whole; the last one counts
//!
//!   IDENTITY                 END
//!    0   8  magic             0   8  records before this one
//!    8   4  version           8   8  bytes of MEMORY payload
//!   12   4  reserved, 0      16   8  bytes cleared by ZERO
//!   16  16  device_type      24   8  bytes of DEVICE payload
//!   32   4  device_version   32   4  digest
//!   36   4  features         36   4  reserved, 0
//!   40   8  memory_size
//!   48   4  page_size
//!   52   4  state_size_max
//! ```
//!
//! The digest is the CRC-32C over the first 28 bytes of all headers before END, with AGAIN cleared.
//! These bytes include the payload checksums, so the digest covers the whole stream, except for payloads
//! without a checksum.
//!
//! The reader starts with device memory that reads 0, so the writer does not send memory that was
//! never written.
//!
//! # A buffer that may have been read
//!
//! When v1 goes from pre-copy to stop-and-copy, the source cannot know whether the user read the
//! buffer staged last, so it sends that buffer again (P23): the same bytes, except that the first
//! header has AGAIN. The reader remembers the header of the last START record and the totals before
//! it. It accepts a record with AGAIN in two cases. The record has the number expected next: the
//! user had not read the buffer. Or the record has exactly the remembered header: the reader goes
//! back to the totals before it. Nothing else goes back, so any other repeated or misplaced record
//! is refused.

pub use crate::checksum::{crc_finish, Checksum, CRC_SEED};
pub use crate::error::Error;
pub use crate::format::{
    Kind, END_SIZE, FLAGS, FLAG_AGAIN, FLAG_OPTIONAL, FLAG_START, FLAG_UNCHECKED, HEADER_SIZE,
    IDENTITY_SIZE, MAGIC, VERSION, ZERO_SIZE,
};
pub use crate::identity::{device_type, Identity};
pub use crate::identity_text::IdentityText;
pub use crate::part::{Changes, Part, PartTable, Parts, SavedState, PARTS_MAX};
pub use crate::record::Header;
pub use crate::state_codec::{Reader, Writer};
pub use crate::totals::Totals;
