// SPDX-License-Identifier: GPL-2.0

//! The BAR with the MSI-X table and the pending bits.
//!
//! Messages go to eventfds, so nothing is sent to the addresses in the table: as with vfio-pci it
//! is the user who acts on what the guest writes there. The table keeps what is written to it, and
//! the pending bits are those of [`Irq`].

use crate::{
    config::MSIX_PBA,
    Function, //
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::Mutex, //
};
use kernel_ext::nospec;
use vfio::irq::Irq;
use vfio_bindings as bindings;

/// Bytes of a table entry.
const ENTRY: usize = bindings::PCI_MSIX_ENTRY_SIZE as usize;

/// The mask bit of an entry, set at power-on.
const CTRL: usize = bindings::PCI_MSIX_ENTRY_VECTOR_CTRL as usize;

/// The bits of an entry that a write changes: address, data and the mask bit.
const WRITABLE: [u8; ENTRY] = [
    0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0, 0, 0,
];

/// The table of one instance.
#[pin_data]
pub struct Msix {
    #[pin]
    table: Mutex<KVec<u8>>,
}

impl Msix {
    /// A table in its power-on state.
    pub fn new(function: &Function) -> Result<impl PinInit<Self>> {
        let mut table = KVec::from_elem(0, usize::from(function.msix) * ENTRY, GFP_KERNEL)?;
        power_on(&mut table);

        Ok(pin_init!(Self {
            table <- new_mutex!(table, "vfio_msix"),
        }))
    }

    /// Reads table or pending bits; any access inside the BAR. The rest reads 0.
    pub fn read(&self, irq: &Irq, at: usize, data: &mut [u8]) -> Result {
        let pba = MSIX_PBA as usize;

        if at >= pba {
            let pending = irq.pending();
            for (i, byte) in data.iter_mut().enumerate() {
                *byte = match at - pba + i {
                    at @ 0..8 => (pending >> (8 * at)) as u8,
                    _ => 0,
                };
            }
        } else {
            let table = self.table.lock();
            for (i, byte) in data.iter_mut().enumerate() {
                *byte = match at + i {
                    at if at < table.len() => table[nospec::index(at, table.len())],
                    _ => 0,
                };
            }
        }
        Ok(())
    }

    /// Writes the table; any access inside the BAR. The rest is read-only.
    pub fn write(&self, at: usize, data: &[u8]) -> Result {
        let mut table = self.table.lock();

        for (i, new) in data.iter().enumerate() {
            if let Some(byte) = table.get_mut(at + i) {
                let mask = WRITABLE[(at + i) % ENTRY];
                *byte = (*byte & !mask) | (new & mask);
            }
        }
        Ok(())
    }

    /// Back to power-on: every vector masked.
    pub fn reset(&self) {
        power_on(&mut self.table.lock());
    }
}

/// Writes the power-on state into a table.
fn power_on(table: &mut [u8]) {
    for entry in table.chunks_exact_mut(ENTRY) {
        entry.fill(0);
        entry[CTRL] = bindings::PCI_MSIX_ENTRY_CTRL_MASKBIT as u8;
    }
}
