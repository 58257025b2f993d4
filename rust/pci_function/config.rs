// SPDX-License-Identifier: GPL-2.0

//! The emulated configuration space.
//!
//! A type 0 header and the MSI and MSI-X capabilities: 256 bytes, declared as a table of fields
//! with their reset values and the bits a write may change. As on a bus, a write to read-only bits
//! is no error and has no effect, which is also how a BAR is sized. It can be accessed in every
//! state of the device (P52) and at any width.
//!
//! Four bits of the command register have an effect beyond the bytes. I/O and memory enable decide which
//! BARs the device decodes: [`ConfigSpace::decodes`]. [`ConfigSpace::write`] says what a write does to bus
//! mastering and INTx disable, and when it lets the device work. `command.rs` of crate `migratable`
//! carries that out.

use crate::{
    Bar,
    Function,
    NUM_BARS, //
};
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};
use kernel_ext::mutex::{
    new_killable_mutex,
    Guard,
    Mutex, //
};
use vfio_bindings as bindings;

/// Size of the configuration space of a conventional PCI device.
pub const SIZE: usize = 256;

/// Offset of the pending bits in the MSI-X BAR; the table is at 0.
pub const MSIX_PBA: u32 = 0x800;

const COMMAND: usize = bindings::PCI_COMMAND as usize;
const STATUS: usize = bindings::PCI_STATUS as usize;
const CAPABILITIES: usize = bindings::PCI_CAPABILITY_LIST as usize;

/// The bits of the command register a write may change in every function.
const COMMAND_MASK: u32 = DECODES | bindings::PCI_COMMAND_INTX_DISABLE;

/// The bits of the command register that enable BARs.
const DECODES: u32 = bindings::PCI_COMMAND_IO | bindings::PCI_COMMAND_MEMORY;

/// A field of the configuration space.
struct Field {
    /// Offset of its first byte.
    at: usize,
    /// Bytes.
    width: usize,
    /// Value at power-on.
    reset: u32,
    /// The bits a write changes.
    mask: u32,
}

/// Shorthand for a row of a table of fields.
fn field(at: u32, width: usize, reset: u32, mask: u32) -> Field {
    Field {
        at: at as usize,
        width,
        reset,
        mask,
    }
}

/// The header, but for its BARs. What is not listed reads 0 and cannot be written.
fn header(l: &Function) -> [Field; 10] {
    use bindings::*;

    let master = if l.bus_master { PCI_COMMAND_MASTER } else { 0 };
    [
        //    offset               width reset                        writable
        field(PCI_VENDOR_ID, 2, l.vendor.into(), 0),
        field(PCI_DEVICE_ID, 2, l.device.into(), 0),
        field(PCI_COMMAND, 2, 0, COMMAND_MASK | master),
        field(PCI_CLASS_REVISION, 1, l.revision.into(), 0),
        field(PCI_CLASS_PROG, 3, l.class, 0),
        field(PCI_CACHE_LINE_SIZE, 1, 0, 0xff),
        field(PCI_SUBSYSTEM_VENDOR_ID, 2, l.subsystem_vendor.into(), 0),
        field(PCI_SUBSYSTEM_ID, 2, l.subsystem.into(), 0),
        field(PCI_INTERRUPT_LINE, 1, 0, 0xff),
        field(PCI_INTERRUPT_PIN, 1, l.intx.into(), 0),
    ]
}

/// The MSI capability: 64-bit, without masks.
fn msi(at: u32, vectors: u8) -> [Field; 5] {
    use bindings::*;

    let flags = PCI_MSI_FLAGS_64BIT | (vectors.trailing_zeros() << 1);
    [
        field(at, 1, PCI_CAP_ID_MSI, 0),
        field(
            at + PCI_MSI_FLAGS,
            2,
            flags,
            PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE,
        ),
        field(at + PCI_MSI_ADDRESS_LO, 4, 0, 0xffff_fffc),
        field(at + PCI_MSI_ADDRESS_HI, 4, 0, 0xffff_ffff),
        field(at + PCI_MSI_DATA_64, 2, 0, 0xffff),
    ]
}

/// Bytes of the MSI capability, up to the next multiple of four.
const MSI_SIZE: u32 = 0x10;

/// The MSI-X capability.
fn msix(at: u32, vectors: u16, bar: u32) -> [Field; 4] {
    use bindings::*;

    [
        field(at, 1, PCI_CAP_ID_MSIX, 0),
        field(
            at + PCI_MSIX_FLAGS,
            2,
            u32::from(vectors) - 1,
            PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL,
        ),
        field(at + PCI_MSIX_TABLE, 4, bar, 0),
        field(at + PCI_MSIX_PBA, 4, MSIX_PBA | bar, 0),
    ]
}

/// The fields of BAR `index`; two for a 64-bit one.
fn bar(index: usize, bar: Bar) -> [Option<Field>; 2] {
    use bindings::*;

    let at = PCI_BASE_ADDRESS_0 + 4 * index as u32;
    // The address bits above the size are writable, so that writing all ones shows the size.
    let low = |mask: u64| mask as u32 & PCI_BASE_ADDRESS_MEM_MASK as u32;

    match bar {
        Bar::None => [None, None],
        Bar::Registers { size } => [Some(field(at, 4, 0, low(!(u64::from(size) - 1)))), None],
        Bar::Io { size } => [
            Some(field(at, 4, PCI_BASE_ADDRESS_SPACE_IO, !(size - 1))),
            None,
        ],
        Bar::Msix => [
            Some(field(at, 4, 0, low(!(crate::MSIX_BAR_SIZE - 1)))),
            None,
        ],
        Bar::Memory { size } => {
            let mask = !(size - 1);
            let kind = PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH;
            [
                Some(field(at, 4, kind, low(mask))),
                Some(field(at + 4, 4, 0, (mask >> 32) as u32)),
            ]
        }
    }
}

/// What of a [`ConfigSpace`] never changes.
pub struct Table {
    reset: [u8; SIZE],
    mask: [u8; SIZE],
    /// The bits of the command register of which one must be set for the device to work.
    works: u32,
}

impl Table {
    /// Lays out the configuration space of a function.
    pub fn new(function: &Function) -> Self {
        let mut table = Self {
            reset: [0; SIZE],
            mask: [0; SIZE],
            works: if function.bus_master {
                bindings::PCI_COMMAND_MASTER
            } else {
                DECODES
            },
        };

        table.add(&header(function));
        for i in 0..NUM_BARS {
            for field in bar(i, function.bars[i]).into_iter().flatten() {
                table.add(&[field]);
            }
        }

        // The capabilities, each linked from the one before; the first from the header.
        let mut link = CAPABILITIES;
        let mut at: u32 = 0x40;
        if function.msi != 0 {
            table.add(&msi(at, function.msi));
            table.link(&mut link, at);
            at += MSI_SIZE;
        }
        if let (Some(bar), 1..) = (function.msix_bar(), function.msix) {
            table.add(&msix(at, function.msix, bar as u32));
            table.link(&mut link, at);
        }
        table
    }

    /// Enters fields.
    fn add(&mut self, fields: &[Field]) {
        for f in fields {
            let bytes = f.at..f.at + f.width;
            self.reset[bytes.clone()].copy_from_slice(&f.reset.to_le_bytes()[..f.width]);
            self.mask[bytes].copy_from_slice(&f.mask.to_le_bytes()[..f.width]);
        }
    }

    /// Links the capability at `at` from `link`, and moves `link` to its own next pointer.
    fn link(&mut self, link: &mut usize, at: u32) {
        self.reset[*link] = at as u8;
        self.reset[STATUS] |= bindings::PCI_STATUS_CAP_LIST as u8;
        *link = at as usize + bindings::PCI_CAP_LIST_NEXT as usize;
    }
}

/// What a write does to the command register.
#[derive(Clone, Copy)]
pub struct Effect {
    /// Whether the write leaves the device enabled to work, if the write covers the command register.
    pub works: Option<bool>,
    /// The write changes that.
    pub works_changed: bool,
    /// INTx disable as the write leaves it, if the write changes it.
    pub intx_disable: Option<bool>,
}

impl Effect {
    /// The effect of a change of the command register, which the write covers or not. One of the bits
    /// `works` enables the device to work.
    fn new(old: u32, new: u32, works: u32, covered: bool) -> Self {
        let disable = bindings::PCI_COMMAND_INTX_DISABLE;

        Self {
            works: covered.then_some(new & works != 0),
            works_changed: (old & works != 0) != (new & works != 0),
            intx_disable: ((old ^ new) & disable != 0).then_some(new & disable != 0),
        }
    }
}

/// A write that has not been committed: nothing has changed yet.
///
/// Holds the lock, so that of two writes at once the later one counts for bytes and effects both.
pub struct Write<'a> {
    space: &'a ConfigSpace,
    bytes: Guard<'a, [u8; SIZE]>,
    written: [u8; SIZE],
    /// What has to be carried out: the enabling of work, which may fail, before the commit, INTx
    /// disable after it.
    pub effect: Effect,
}

impl<'a> Write<'a> {
    /// A write that replaces `bytes` by `written`.
    fn new(
        space: &'a ConfigSpace,
        bytes: Guard<'a, [u8; SIZE]>,
        written: [u8; SIZE],
        covered: bool,
    ) -> Self {
        let (old, new) = (command(&bytes), command(&written));
        Self {
            space,
            bytes,
            written,
            effect: Effect::new(old, new, space.table.works, covered),
        }
    }

    /// Changes the bytes. The lock is held until what this returns is dropped.
    pub fn commit(mut self) -> Guard<'a, [u8; SIZE]> {
        *self.bytes = self.written;
        self.space.command.store(command(&self.written), Relaxed);
        self.bytes
    }
}

/// The configuration space of one instance.
#[pin_data]
pub struct ConfigSpace {
    table: KBox<Table>,
    /// The bytes as they are now. Held while the effects of a write are carried out.
    #[pin]
    bytes: Mutex<[u8; SIZE]>,
    /// The command register, for accesses to BARs, which take no lock. Changed with `bytes` locked.
    command: Atomic<u32>,
}

impl ConfigSpace {
    /// A configuration space in its power-on state.
    pub fn new(table: KBox<Table>) -> impl PinInit<Self> {
        let reset = table.reset;

        pin_init!(Self {
            table,
            bytes <- new_killable_mutex!(reset, "vfio_config"),
            command: Atomic::new(command(&reset)),
        })
    }

    /// Reads `data.len()` bytes; the caller has checked the range. `level` is whether INTx is asserted.
    ///
    /// `EINTR` if the caller is killed while a write waits for the worker.
    pub fn read(&self, at: usize, data: &mut [u8], level: impl FnOnce() -> bool) -> Result {
        let end = at.checked_add(data.len()).ok_or(EINVAL)?;
        let mut bytes = *self.bytes.lock()?;

        if level() {
            bytes[STATUS] |= bindings::PCI_STATUS_INTERRUPT as u8;
        }
        data.copy_from_slice(bytes.get(at..end).ok_or(EINVAL)?);
        Ok(())
    }

    /// Begins a write of `data`; the caller has checked the range.
    ///
    /// `EINTR` if the caller is killed while another write waits for the worker.
    pub fn write(&self, at: usize, data: &[u8]) -> Result<Write<'_>> {
        let end = at.checked_add(data.len()).ok_or(EINVAL)?;
        let mask = self.table.mask.get(at..end).ok_or(EINVAL)?;
        let bytes = self.bytes.lock()?;
        let mut written = *bytes;

        for ((byte, mask), new) in written[at..end].iter_mut().zip(mask).zip(data) {
            *byte = (*byte & !mask) | (new & mask);
        }
        let covered = (at..end).contains(&COMMAND);
        Ok(Write::new(self, bytes, written, covered))
    }

    /// Returns whether the device decodes an access to a BAR: I/O or memory is enabled.
    #[inline]
    pub fn decodes(&self, bar: Bar) -> bool {
        let bit = match bar {
            Bar::None => return false,
            Bar::Io { .. } => bindings::PCI_COMMAND_IO,
            Bar::Registers { .. } | Bar::Memory { .. } | Bar::Msix => bindings::PCI_COMMAND_MEMORY,
        };
        self.command.load(Relaxed) & bit != 0
    }

    /// Begins to put all bytes back to power-on, as the device is being closed.
    pub fn reset(&self) -> Write<'_> {
        Write::new(self, self.bytes.lock_closing(), self.table.reset, false)
    }
}

/// The command register in `bytes`.
fn command(bytes: &[u8; SIZE]) -> u32 {
    u16::from_le_bytes([bytes[COMMAND], bytes[COMMAND + 1]]).into()
}
