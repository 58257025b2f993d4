// SPDX-License-Identifier: GPL-2.0

//! Registers: the table.
//!
//! Each register of BAR 0 is one row of [`REGISTERS`]. The device, the userspace driver and the
//! reference manual all follow this table. `control.rs` implements the effects of writes.

use crate::table::table;
use Access::{Ro, Rw, Rw1c, RwDisabled};
use Reset::Value;

/// Size of BAR 0 in bytes. Offsets without a register are reserved.
pub const WINDOW: u64 = 0x1000;

/// Value of `ID`: "MDMA", read as little-endian bytes.
pub const ID: u32 = u32::from_le_bytes(*b"MDMA");

/// Value of `VERSION`: revision of the programming interface. 2 has scatter lists, 3 registered memory.
pub const VERSION: u32 = 3;

/// PCI vendor id, "MD". The PCI SIG has not assigned it.
pub const PCI_VENDOR: u16 = 0x4d44;
/// PCI device id.
pub const PCI_DEVICE: u16 = 0x0001;
/// PCI class code: processing accelerator.
pub const PCI_CLASS: u32 = 0x12_0000;

/// BAR of the registers.
pub const BAR_REGISTERS: u32 = 0;
/// BAR of the device memory: 64 bits wide, so BAR 3 holds its upper half.
pub const BAR_MEMORY: u32 = 2;
/// BAR of the MSI-X table and pending bits.
pub const BAR_MSIX: u32 = 4;

/// Largest `RING_ORDER`: 4096 descriptors.
pub const MAX_RING_ORDER: u32 = 12;
/// Largest `THROTTLE`: one second a unit.
pub const MAX_THROTTLE_US: u32 = 1_000_000;

/// `CONTROL.ENABLE`.
pub const CONTROL_ENABLE: u32 = 1 << 0;
/// `STATUS.ENABLED`.
pub const STATUS_ENABLED: u32 = 1 << 0;
/// `STATUS.BUSY`.
pub const STATUS_BUSY: u32 = 1 << 1;
/// `STATUS.HALTED`.
pub const STATUS_HALTED: u32 = 1 << 2;

/// Interrupt cause: a job with the `INTERRUPT` flag completed. Vector 0.
pub const INT_COMPLETION: u32 = 1 << 0;
/// Interrupt cause: the queue halted. Vector 1, or 0 if only one is enabled.
pub const INT_HALT: u32 = 1 << 1;
/// All causes.
pub const INT_ALL: u32 = INT_COMPLETION | INT_HALT;

/// `REFUSED.COUNT`.
pub const REFUSED_COUNT: u32 = 0xffff;
/// Lowest bit of `REFUSED.OFFSET`.
pub const REFUSED_OFFSET_SHIFT: u32 = 16;
/// `REFUSED.OFFSET`, moved down to bit 0.
pub const REFUSED_OFFSET: u32 = 0xfff;
/// Lowest bit of `REFUSED.REASON`.
pub const REFUSED_REASON_SHIFT: u32 = 28;

/// Access type of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only: a write is refused.
    Ro,
    /// Read and write.
    Rw,
    /// Read and write, while `CONTROL.ENABLE` is 0; otherwise a write is refused.
    RwDisabled,
    /// Read; a write of 1 to a bit clears it.
    Rw1c,
}

/// Value of a register after a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// This value.
    Value(u64),
    /// The size of the device memory in bytes, which depends on the mdev type.
    MemorySize,
    /// The module parameter `throttle_us`.
    ThrottleUs,
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
    /// Its name in the manual.
    pub name: &'static str,
    /// Offset in BAR 0, in bytes, a multiple of `width`.
    pub offset: u64,
    /// Width in bytes, 4 or 8.
    pub width: u64,
    /// Its access type.
    pub access: Access,
    /// Value after a reset.
    pub reset: Reset,
    /// The largest value that software may write.
    pub max: u64,
    /// Its fields; empty if the value is one number.
    pub bits: &'static [Bits],
    /// What it means.
    pub meaning: &'static str,
}

table! {
    /// A register.
    pub enum Reg;
    /// The registers, in ascending order of offset.
    pub const REGISTERS: [Register; _] = [
        Id { name: "ID", offset: 0x000, width: 4, access: Ro, reset: Value(ID as u64), max: 0, bits: &[],
            meaning: "Identifies the device: the bytes \"MDMA\"." }
        Version { name: "VERSION", offset: 0x004, width: 4, access: Ro, reset: Value(VERSION as u64), max: 0, bits: &[],
            meaning: "Revision of this programming interface." }
        Caps { name: "CAPS", offset: 0x008, width: 4, access: Ro, reset: Value(CAPS as u64), max: 0,
            bits: &[
                Bits { name: "MAX_RING_ORDER", shift: 0, width: 8, meaning: "Largest value of RING_ORDER." },
                Bits { name: "OPERATIONS", shift: 8, width: 8, meaning: "Number of operations: valid codes are 0 to this number minus 1." },
                Bits { name: "KEY_ORDER", shift: 16, width: 8, meaning: "At most 2^KEY_ORDER keys of registered memory." },
            ],
            meaning: "Limits of this device." }
        MemSize { name: "MEM_SIZE", offset: 0x010, width: 8, access: Ro, reset: Reset::MemorySize, max: 0, bits: &[],
            meaning: "Size of the device memory in bytes, which is the size of BAR 2." }
        Control { name: "CONTROL", offset: 0x018, width: 4, access: Rw, reset: Value(0), max: CONTROL_ENABLE as u64,
            bits: &[
                Bits { name: "ENABLE", shift: 0, width: 1,
                    meaning: "Writing 1 checks RING_BASE, RING_ORDER and COMPLETION_BASE and starts the queue; it is refused when one of them \
                              is illegal. While a unit of the previous run is in flight the queue starts after that unit. Writing 0 stops \
                              the queue after the unit in flight, drops the jobs not completed and clears STATUS.HALTED, ERROR, ERROR_INDEX, \
                              HEAD and TAIL." },
            ],
            meaning: "Controls the queue. The other bits must be 0." }
        Status { name: "STATUS", offset: 0x01c, width: 4, access: Ro, reset: Value(0), max: 0,
            bits: &[
                Bits { name: "ENABLED", shift: 0, width: 1, meaning: "The queue is enabled." },
                Bits { name: "BUSY", shift: 1, width: 1,
                    meaning: "The queue has a job that is not completed, or a unit is in flight. After CONTROL.ENABLE was cleared, 0 means \
                              that the device no longer accesses guest memory." },
                Bits { name: "HALTED", shift: 2, width: 1, meaning: "An error has halted the queue. It takes no descriptors until it is disabled and enabled." },
            ],
            meaning: "State of the queue." }
        Error { name: "ERROR", offset: 0x020, width: 4, access: Ro, reset: Value(0), max: 0, bits: &[],
            meaning: "Error code of the halt. 0 unless STATUS.HALTED." }
        ErrorIndex { name: "ERROR_INDEX", offset: 0x024, width: 4, access: Ro, reset: Value(0), max: 0, bits: &[],
            meaning: "Index of the descriptor at which the queue has halted. 0 unless STATUS.HALTED." }
        IntCause { name: "INT_CAUSE", offset: 0x028, width: 4, access: Rw1c, reset: Value(0), max: INT_ALL as u64,
            bits: &[
                Bits { name: "COMPLETION", shift: 0, width: 1, meaning: "A job with the flag INTERRUPT has completed. Vector 0." },
                Bits { name: "HALT", shift: 1, width: 1, meaning: "The queue has halted. Vector 1, or 0 where only one is enabled." },
            ],
            meaning: "Causes of interrupts. INTx is asserted while INT_CAUSE & INT_MASK is not 0. MSI and MSI-X send one message per event. \
                      The other bits must be 0." }
        IntMask { name: "INT_MASK", offset: 0x02c, width: 4, access: Rw, reset: Value(0), max: INT_ALL as u64,
            bits: &[
                Bits { name: "COMPLETION", shift: 0, width: 1, meaning: "1 enables interrupts by the cause with this name." },
                Bits { name: "HALT", shift: 1, width: 1, meaning: "1 enables interrupts by the cause with this name." },
            ],
            meaning: "Enables interrupts by cause. Setting a bit whose cause is pending interrupts at once. The other bits must be 0." }
        RingBase { name: "RING_BASE", offset: 0x030, width: 8, access: RwDisabled, reset: Value(0), max: u64::MAX, bits: &[],
            meaning: "IOVA of the descriptor ring, a multiple of 64." }
        RingOrder { name: "RING_ORDER", offset: 0x038, width: 4, access: RwDisabled, reset: Value(0), max: MAX_RING_ORDER as u64, bits: &[],
            meaning: "The ring has 2^RING_ORDER entries, and room for one job fewer. 1 to CAPS.MAX_RING_ORDER." }
        CompletionBase { name: "COMPLETION_BASE", offset: 0x040, width: 8, access: RwDisabled, reset: Value(0), max: u64::MAX, bits: &[],
            meaning: "IOVA of the completion records, one for each entry of the ring, a multiple of 32." }
        Head { name: "HEAD", offset: 0x048, width: 4, access: Ro, reset: Value(0), max: 0, bits: &[],
            meaning: "Index of the descriptor that the device takes next or is working on. It moves on together with the completion record." }
        Tail { name: "TAIL", offset: 0x04c, width: 4, access: Rw, reset: Value(0), max: u64::MAX, bits: &[],
            meaning: "Doorbell: index after the last descriptor that software has filled. HEAD = TAIL means that the ring is empty. \
                      A value that is not below the number of entries, or that takes back descriptors or overruns HEAD, halts the queue \
                      with BAD_TAIL and leaves TAIL unchanged. A write while the queue is disabled is refused." }
        JobsDone { name: "JOBS_DONE", offset: 0x050, width: 8, access: Ro, reset: Value(0), max: 0, bits: &[],
            meaning: "Completion records written since reset, including those of failed jobs." }
        BytesDone { name: "BYTES_DONE", offset: 0x058, width: 8, access: Ro, reset: Value(0), max: 0, bits: &[],
            meaning: "Bytes processed since reset; it grows by the unit, while a job is in flight." }
        Scratch { name: "SCRATCH", offset: 0x060, width: 8, access: Rw, reset: Value(0), max: u64::MAX, bits: &[],
            meaning: "Free for software." }
        Throttle { name: "THROTTLE", offset: 0x068, width: 4, access: Rw, reset: Reset::ThrottleUs, max: MAX_THROTTLE_US as u64, bits: &[],
            meaning: "Test aid: microseconds that the device waits after each unit, at most 1000000, so that a job can be caught in flight." }
        Refused { name: "REFUSED", offset: 0x06c, width: 4, access: Ro, reset: Value(0), max: 0,
            bits: &[
                Bits { name: "COUNT", shift: 0, width: 16, meaning: "Accesses refused since reset; it saturates at 65535." },
                Bits { name: "OFFSET", shift: REFUSED_OFFSET_SHIFT, width: 12, meaning: "Offset of the last one." },
                Bits { name: "REASON", shift: REFUSED_REASON_SHIFT, width: 4,
                    meaning: "Reason of the last refusal. 1: no register at this offset and width. 2: the register is read-only. \
                              3: it is writable only while CONTROL.ENABLE is 0. 4: it is writable only while CONTROL.ENABLE is 1. \
                              5: the value is illegal." },
            ],
            meaning: "Refused accesses: a read returned all ones, a write was dropped." }
    ] by reg;
}

/// Number of registers.
pub const COUNT: usize = REGISTERS.len();

/// Value of `CAPS`.
pub const CAPS: u32 =
    MAX_RING_ORDER | ((crate::desc::OPERATIONS.len() as u32) << 8) | (crate::key::KEY_ORDER << 16);

impl Reg {
    /// Returns the offset of this register in BAR 0.
    pub const fn offset(self) -> u64 {
        self.row().offset
    }
}

/// Returns the register that an access of `len` bytes at `offset` reaches, and its first byte in it.
/// A legal access reaches a whole register, or one half of a register of 8 bytes.
#[inline]
pub fn decode(offset: u64, len: usize) -> Option<(Reg, usize)> {
    let word = offset / 4;
    if offset % 4 != 0 || word >= WORDS as u64 {
        return None;
    }
    // The mask bounds the index under speculation as well.
    let reg = MAP[word as usize & (WORDS - 1)]?;
    let row = reg.row();
    let first = (offset - row.offset) as usize;
    let whole = first == 0 && len as u64 == row.width;
    let half = row.width == 8 && len == 4;

    (whole || half).then_some((reg, first))
}

/// Number of 32-bit words of the window that may have registers, a power of two.
const WORDS: usize = 32;

/// The register at each word of the window. The table is aligned, ascending and without overlaps.
static MAP: [Option<Reg>; WORDS] = {
    let mut map = [None; WORDS];
    let mut end = 0;
    let mut i = 0;
    while i < COUNT {
        let Register {
            reg, offset, width, ..
        } = REGISTERS[i];
        assert!((width == 4 || width == 8) && offset % width == 0 && offset >= end);
        end = offset + width;
        map[offset as usize / 4] = Some(reg);
        map[end as usize / 4 - 1] = Some(reg);
        i += 1;
    }
    assert!(end <= WINDOW);
    map
};
