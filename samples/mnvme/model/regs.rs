// SPDX-License-Identifier: GPL-2.0

//! Registers: the table.
//!
//! Each register of BAR 0 is one row of [`REGISTERS`]; the doorbells follow from [`DOORBELLS`] on. The
//! device and the data sheet follow this table. `controller.rs` implements the effects of writes.

use crate::{ENTRIES_MAX, QUEUES};
use Access::{Ro, Rw, RwDisabled, W1c, W1s};

/// Size of BAR 0 in bytes.
pub const WINDOW: u64 = 0x2000;

/// Offset of the doorbells: for each queue pair `SQyTDBL`, then `CQyHDBL`, of 4 bytes each.
pub const DOORBELLS: u64 = 0x1000;

/// PCI vendor id, "MD". The PCI SIG has not assigned it.
pub const PCI_VENDOR: u16 = 0x4d44;
/// PCI device id.
pub const PCI_DEVICE: u16 = 0x0004;
/// PCI class code: non-volatile memory controller, NVM Express.
pub const PCI_CLASS: u32 = 0x01_0802;

/// BAR of the registers.
pub const BAR_REGISTERS: u32 = 0;
/// BAR of the MSI-X table and pending bits.
pub const BAR_MSIX: u32 = 4;
/// MSI-X vectors: one for each completion queue.
pub const VECTORS: u16 = QUEUES as u16;

/// `CAP.TO` in units of 500 ms. The device is ready at once, but an emulated machine is slow.
const TIMEOUT: u64 = 120;
/// Value of `CAP`: contiguous queues, the NVM command set, pages of 4 KiB, doorbell stride 0.
pub const CAP: u64 = (ENTRIES_MAX as u64 - 1) | (1 << 16) | (TIMEOUT << 24) | (1 << 37);
/// Value of `VS`: 1.4.0.
pub const VS: u32 = 0x0001_0400;

/// `CC.EN`.
pub const CC_EN: u32 = 1 << 0;
/// `CC.CSS`, `CC.MPS` and `CC.AMS`: each must be 0.
pub const CC_FIXED: u32 = (0x7 << 4) | (0xf << 7) | (0x7 << 11);
/// `CC.SHN`.
pub const CC_SHN: u32 = 0x3 << 14;
/// `CC.IOSQES` and `CC.IOCQES`.
pub const CC_ENTRY_SIZES: u32 = 0xff << 16;
/// The value of [`CC_ENTRY_SIZES`] with which I/O queues can be created: 2^6 and 2^4 bytes.
pub const CC_ENTRY_SIZES_LEGAL: u32 = (6 << 16) | (4 << 20);
/// The bits of `CC` that are defined.
pub const CC_MASK: u32 = CC_EN | CC_FIXED | CC_SHN | CC_ENTRY_SIZES;

/// `CSTS.RDY`.
pub const CSTS_RDY: u32 = 1 << 0;
/// `CSTS.CFS`.
pub const CSTS_CFS: u32 = 1 << 1;
/// `CSTS.SHST`: shutdown processing occurs.
pub const CSTS_SHST_BUSY: u32 = 1 << 2;
/// `CSTS.SHST`: shutdown processing is complete.
pub const CSTS_SHST_DONE: u32 = 2 << 2;

/// The bits of `AQA` that are defined: `ASQS` and `ACQS`.
pub const AQA_MASK: u64 = 0x0fff_0fff;
/// The bits of `ASQ` and `ACQ` that are defined.
pub const BASE_MASK: u64 = !0xfff;

/// Access type of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only: a write is dropped.
    Ro,
    /// Read and write.
    Rw,
    /// Read and write, while `CC.EN` is 0; otherwise a write is dropped.
    RwDisabled,
    /// A write of 1 to a bit sets it.
    W1s,
    /// A write of 1 to a bit clears it.
    W1c,
}

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table describes the registers")]
pub enum Reg {
    Cap,
    Vs,
    Intms,
    Intmc,
    Cc,
    Csts,
    Aqa,
    Asq,
    Acq,
}

/// A field of a register: bits `shift` to `shift + width - 1`.
#[derive(Clone, Copy, Debug)]
pub struct Bits {
    /// Name of the field.
    pub name: &'static str,
    /// Number of its lowest bit.
    pub shift: u32,
    /// Number of bits.
    pub width: u32,
    /// What it means.
    pub meaning: &'static str,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Register {
    /// The register.
    pub reg: Reg,
    /// Its name.
    pub name: &'static str,
    /// Offset in BAR 0, in bytes.
    pub offset: u64,
    /// Width in bytes, 4 or 8.
    pub width: u64,
    /// Its access type.
    pub access: Access,
    /// Value after a reset.
    pub reset: u64,
    /// The bits that a write changes.
    pub mask: u64,
    /// Its fields; empty if the value is one number.
    pub bits: &'static [Bits],
    /// What it means.
    pub meaning: &'static str,
}

/// The registers, in ascending order of offset. What is not listed reads 0, and writes to it are
/// dropped.
#[rustfmt::skip]
pub const REGISTERS: [Register; 9] = [
    Register { reg: Reg::Cap, name: "CAP", offset: 0x00, width: 8, access: Ro, reset: CAP, mask: 0,
        bits: &[
            Bits { name: "MQES", shift: 0, width: 16, meaning: "The most entries of a queue, minus 1." },
            Bits { name: "CQR", shift: 16, width: 1, meaning: "Queues must be physically contiguous." },
            Bits { name: "TO", shift: 24, width: 8, meaning: "The longest time that CSTS.RDY takes to follow CC.EN, in units of 500 ms." },
            Bits { name: "DSTRD", shift: 32, width: 4, meaning: "0: doorbells are 4 bytes apart." },
            Bits { name: "CSS", shift: 37, width: 8, meaning: "Bit 0: the NVM command set." },
            Bits { name: "MPSMIN", shift: 48, width: 4, meaning: "0: the smallest page has 4 KiB." },
            Bits { name: "MPSMAX", shift: 52, width: 4, meaning: "0: the largest page has 4 KiB." },
        ],
        meaning: "Controller capabilities." },
    Register { reg: Reg::Vs, name: "VS", offset: 0x08, width: 4, access: Ro, reset: VS as u64, mask: 0, bits: &[],
        meaning: "Version: 1.4.0." },
    Register { reg: Reg::Intms, name: "INTMS", offset: 0x0c, width: 4, access: W1s, reset: 0, mask: 0x1ff, bits: &[],
        meaning: "Interrupt mask set. A masked vector does not assert INTx. Reads as the mask. Not for use with MSI-X." },
    Register { reg: Reg::Intmc, name: "INTMC", offset: 0x10, width: 4, access: W1c, reset: 0, mask: 0x1ff, bits: &[],
        meaning: "Interrupt mask clear. Reads as the mask." },
    Register { reg: Reg::Cc, name: "CC", offset: 0x14, width: 4, access: Rw, reset: 0, mask: CC_MASK as u64,
        bits: &[
            Bits { name: "EN", shift: 0, width: 1,
                meaning: "Writing 1 checks CC, AQA, ASQ and ACQ and starts the controller; an illegal value sets CSTS.CFS. Writing 0 \
                          resets the controller: it deletes all I/O queues and forgets commands that are not completed." },
            Bits { name: "CSS", shift: 4, width: 3, meaning: "Must be 0." },
            Bits { name: "MPS", shift: 7, width: 4, meaning: "Must be 0: pages of 4 KiB." },
            Bits { name: "AMS", shift: 11, width: 3, meaning: "Must be 0: round robin." },
            Bits { name: "SHN", shift: 14, width: 2, meaning: "Not 0: process no more commands, then set CSTS.SHST." },
            Bits { name: "IOSQES", shift: 16, width: 4, meaning: "Must be 6 when an I/O queue is created: entries of 64 bytes." },
            Bits { name: "IOCQES", shift: 20, width: 4, meaning: "Must be 4 when an I/O queue is created: entries of 16 bytes." },
        ],
        meaning: "Controller configuration. While EN is 1, a write changes only EN, SHN, IOSQES and IOCQES." },
    Register { reg: Reg::Csts, name: "CSTS", offset: 0x1c, width: 4, access: Ro, reset: 0, mask: 0,
        bits: &[
            Bits { name: "RDY", shift: 0, width: 1,
                meaning: "The controller processes commands. After CC.EN was cleared, 0 means that the device no longer accesses guest memory." },
            Bits { name: "CFS", shift: 1, width: 1,
                meaning: "Fatal error: a queue's memory is not accessible, or the controller was enabled with illegal values. A reset clears it." },
            Bits { name: "SHST", shift: 2, width: 2, meaning: "0: no shutdown was requested. 1: shutdown processing occurs. 2: it is complete." },
        ],
        meaning: "Controller status." },
    Register { reg: Reg::Aqa, name: "AQA", offset: 0x24, width: 4, access: RwDisabled, reset: 0, mask: AQA_MASK,
        bits: &[
            Bits { name: "ASQS", shift: 0, width: 12, meaning: "Entries of the admin submission queue, minus 1; at least 1." },
            Bits { name: "ACQS", shift: 16, width: 12, meaning: "Entries of the admin completion queue, minus 1; at least 1." },
        ],
        meaning: "Admin queue attributes." },
    Register { reg: Reg::Asq, name: "ASQ", offset: 0x28, width: 8, access: RwDisabled, reset: 0, mask: BASE_MASK, bits: &[],
        meaning: "IOVA of the admin submission queue, a multiple of 4096." },
    Register { reg: Reg::Acq, name: "ACQ", offset: 0x30, width: 8, access: RwDisabled, reset: 0, mask: BASE_MASK, bits: &[],
        meaning: "IOVA of the admin completion queue, a multiple of 4096." },
];

/// What an access reaches.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// A register, and the first byte of it.
    Register(&'static Register, usize),
    /// The tail doorbell of a submission queue, or the head doorbell of a completion queue.
    Doorbell {
        /// Number of the queue, which need not exist.
        queue: usize,
        /// Whether it is that of a completion queue.
        completion: bool,
    },
    /// Nothing: reads 0, writes are dropped.
    Reserved,
}

/// Returns what an access of `len` bytes at `offset` reaches, or `None` if the device does not serve
/// its width and alignment. A legal access reaches 4 or 8 aligned bytes.
#[inline]
pub fn decode(offset: u64, len: usize) -> Option<Target> {
    if !matches!(len, 4 | 8) || offset % len as u64 != 0 || offset >= WINDOW {
        return None;
    }
    if offset >= DOORBELLS {
        let number = (offset - DOORBELLS) as usize / 4;
        return (len == 4).then_some(Target::Doorbell {
            queue: number / 2,
            completion: number % 2 == 1,
        });
    }
    let row = REGISTERS
        .iter()
        .find(|row| (row.offset..row.offset + row.width).contains(&offset));
    match row {
        None => Some(Target::Reserved),
        Some(row) => {
            let first = (offset - row.offset) as usize;
            (first + len <= row.width as usize).then_some(Target::Register(row, first))
        }
    }
}
