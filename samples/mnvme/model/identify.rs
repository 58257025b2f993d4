// SPDX-License-Identifier: GPL-2.0

//! The data of Identify.

use crate::command::{Command, ALL_NAMESPACES, NAMESPACE};
use crate::controller::Controller;
use crate::event::REQUESTS_MAX;
use crate::feature::{CRITICAL, WARNING};
use crate::host::Identity;
use crate::log::{ERROR_ENTRIES, REVISION};
use crate::page::put;
use crate::regs::{PCI_VENDOR, VS};
use crate::status::Status;
use crate::{BLOCK, MDTS, PAGE, TRANSFER_MAX};

/// The model number.
pub const MODEL: &[u8; 40] = b"vfio-mdev-rs NVMe controller            ";

/// A field of an Identify data structure.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Offset in bytes.
    pub offset: usize,
    /// Its name.
    pub name: &'static str,
    /// Its bytes.
    pub value: &'static [u8],
    /// What it means.
    pub meaning: &'static str,
}

/// The fields of the Identify Controller data that do not depend on the instance; the others are 0.
#[rustfmt::skip]
pub const CONTROLLER: [Field; 29] = [
    Field { offset: 0, name: "VID", value: &PCI_VENDOR.to_le_bytes(), meaning: "PCI vendor id." },
    Field { offset: 2, name: "SSVID", value: &PCI_VENDOR.to_le_bytes(), meaning: "PCI subsystem vendor id." },
    Field { offset: 24, name: "MN", value: MODEL, meaning: "Model number." },
    Field { offset: 64, name: "FR", value: REVISION, meaning: "Firmware revision." },
    Field { offset: 77, name: "MDTS", value: &[MDTS], meaning: "The largest transfer: 128 KiB." },
    Field { offset: 80, name: "VER", value: &VS.to_le_bytes(), meaning: "Version." },
    Field { offset: 111, name: "CNTRLTYPE", value: &[1], meaning: "I/O controller." },
    Field { offset: 256, name: "OACS", value: &[0, 0], meaning: "No Format, firmware download, namespace management or self-test." },
    Field { offset: 258, name: "ACL", value: &[3], meaning: "4 Abort commands at a time." },
    Field { offset: 259, name: "AERL", value: &[REQUESTS_MAX as u8 - 1], meaning: "Asynchronous Event Requests at a time, minus 1." },
    Field { offset: 260, name: "FRMW", value: &[0x03], meaning: "One firmware slot, read only." },
    Field { offset: 261, name: "LPA", value: &[0x06], meaning: "The effects log, and offsets into log pages." },
    Field { offset: 262, name: "ELPE", value: &[ERROR_ENTRIES as u8 - 1], meaning: "Entries of the error log, minus 1." },
    Field { offset: 263, name: "NPSS", value: &[0], meaning: "One power state." },
    Field { offset: 266, name: "WCTEMP", value: &WARNING.to_le_bytes(), meaning: "Warning temperature, in kelvins." },
    Field { offset: 268, name: "CCTEMP", value: &CRITICAL.to_le_bytes(), meaning: "Critical temperature, in kelvins." },
    Field { offset: 320, name: "KAS", value: &[0, 0], meaning: "No Keep Alive, which is for fabrics." },
    Field { offset: 512, name: "SQES", value: &[0x66], meaning: "Submission queue entries of 2^6 bytes." },
    Field { offset: 513, name: "CQES", value: &[0x44], meaning: "Completion queue entries of 2^4 bytes." },
    Field { offset: 516, name: "NN", value: &1u32.to_le_bytes(), meaning: "One namespace." },
    Field { offset: 520, name: "ONCS", value: &[0x1d, 0], meaning: "Compare, Dataset Management, Write Zeroes, Save and Select of features." },
    Field { offset: 524, name: "FNA", value: &[0], meaning: "No Format." },
    Field { offset: 525, name: "VWC", value: &[0x07], meaning: "Flush is supported, for all namespaces as well." },
    Field { offset: 526, name: "AWUN", value: &((TRANSFER_MAX / BLOCK) as u16 - 1).to_le_bytes(), meaning: "A command is atomic." },
    Field { offset: 528, name: "AWUPF", value: &[0, 0], meaning: "One block is atomic at a power failure." },
    Field { offset: 532, name: "ACWU", value: &[0, 0], meaning: "No fused operations." },
    Field { offset: 536, name: "SGLS", value: &[0; 4], meaning: "No SGLs." },
    Field { offset: 2048, name: "PSD0.MP", value: &[100, 0], meaning: "Power state 0: 1 W." },
    Field { offset: 2051, name: "PSD0.flags", value: &[0], meaning: "Operational, in units of 0.01 W." },
];

/// The fields of the Identify Namespace data that do not depend on the instance; the others are 0.
#[rustfmt::skip]
pub const NAMESPACE_FIELDS: [Field; 8] = [
    Field { offset: 24, name: "NSFEAT", value: &[0x10], meaning: "NPWG to NOWS are valid." },
    Field { offset: 33, name: "DLFEAT", value: &[0x09], meaning: "Deallocated blocks read 0; Write Zeroes may deallocate." },
    Field { offset: 64, name: "NPWG", value: &[7, 0], meaning: "Preferred write granularity: 8 blocks." },
    Field { offset: 66, name: "NPWA", value: &[7, 0], meaning: "Preferred write alignment: 8 blocks." },
    Field { offset: 68, name: "NPDG", value: &[7, 0], meaning: "Preferred deallocate granularity: 8 blocks." },
    Field { offset: 70, name: "NPDA", value: &[7, 0], meaning: "Preferred deallocate alignment: 8 blocks." },
    Field { offset: 72, name: "NOWS", value: &[7, 0], meaning: "Optimal write size: 8 blocks." },
    Field { offset: 128, name: "LBAF0", value: &[0, 0, 9, 0], meaning: "Blocks of 512 bytes, no metadata." },
];

/// Returns the UUID that `text` spells; digits that are missing are 0.
pub fn parse_uuid(text: &[u8]) -> Identity {
    let mut id = Identity::default();
    let digits = text
        .iter()
        .filter_map(|byte| char::from(*byte).to_digit(16));
    for (i, digit) in digits.take(2 * id.len()).enumerate() {
        id[i / 2] |= (digit as u8) << if i % 2 == 0 { 4 } else { 0 };
    }
    id
}

/// Returns the digits of a byte.
fn hex(byte: u8) -> [u8; 2] {
    let digit = |value: u8| b"0123456789abcdef"[usize::from(value & 0xf)];
    [digit(byte >> 4), digit(byte)]
}

/// Puts the serial number: the last 20 digits of the UUID.
fn put_serial(page: &mut [u8], identity: &Identity) {
    for (i, byte) in identity[6..].iter().enumerate() {
        put(page, 4 + 2 * i, &hex(*byte));
    }
}

/// Puts the NVM subsystem's qualified name, made of the UUID.
fn put_name(page: &mut [u8], identity: &Identity) {
    let prefix = b"nqn.2014-08.org.nvmexpress:uuid:";
    let mut at = 768;
    put(page, at, prefix);
    at += prefix.len();
    for (i, byte) in identity.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            put(page, at, b"-");
            at += 1;
        }
        put(page, at, &hex(*byte));
        at += 2;
    }
}

impl Controller {
    /// Identify: fills `page`, which is 0.
    pub(crate) fn identify(
        &self,
        command: &Command,
        identity: &Identity,
        page: &mut [u8; PAGE],
    ) -> Result<(), Status> {
        let nsid = command.nsid;
        let only = |nsid| {
            (nsid == NAMESPACE)
                .then_some(())
                .ok_or(Status::InvalidNamespace)
        };

        match command.dw10() as u8 {
            0x00 => {
                only(nsid)?;
                // Size, capacity and utilization.
                for at in [0, 8, 16] {
                    put(page, at, &self.blocks().to_le_bytes());
                }
                for field in &NAMESPACE_FIELDS {
                    put(page, field.offset, field.value);
                }
                put(page, 104, identity);
            }
            0x01 => {
                for field in &CONTROLLER {
                    put(page, field.offset, field.value);
                }
                put_serial(page, identity);
                put_name(page, identity);
            }
            0x02 => {
                if nsid >= ALL_NAMESPACES - 1 {
                    return Err(Status::InvalidNamespace);
                }
                // The namespaces above `nsid`.
                if nsid < NAMESPACE {
                    put(page, 0, &NAMESPACE.to_le_bytes());
                }
            }
            0x03 => {
                only(nsid)?;
                // NGUID, then UUID: type, length, two reserved bytes, value.
                for (at, kind) in [(0, 2), (20, 3)] {
                    put(page, at, &[kind, 16, 0, 0]);
                    put(page, at + 4, identity);
                }
            }
            _ => return Err(Status::InvalidField),
        }
        Ok(())
    }
}
