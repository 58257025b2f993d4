// SPDX-License-Identifier: GPL-2.0

//! The contents of the log pages.

use crate::command::{Command, ADMIN, ALL_NAMESPACES, NVM};
use crate::controller::Controller;
use crate::feature::COMPOSITE;
use crate::log::{ErrorLog, EFFECTS, ERRORS, ERROR_SIZE, FIRMWARE, PAGES, REVISION, SMART};
use crate::page::put;
use crate::status::Status;
use crate::PAGE;

impl Controller {
    /// Get Log Page: fills `page`, which is 0, and returns where in it the requested bytes are.
    pub(crate) fn get_log_page(
        &mut self,
        command: &Command,
        page: &mut [u8; PAGE],
    ) -> Result<core::ops::Range<usize>, Status> {
        let (dw10, dw11) = (command.dw10(), command.dw11());
        let id = dw10 as u8;
        let row = PAGES.iter().find(|row| row.id == id);
        let row = row.ok_or(Status::InvalidLogPage)?;
        if !matches!(command.nsid, 0 | ALL_NAMESPACES) {
            return Err(Status::InvalidField);
        }
        let first = u64::from(command.dwords[2]) | (u64::from(command.dwords[3]) << 32);
        if first % 4 != 0 || first > row.size as u64 {
            return Err(Status::InvalidField);
        }
        match id {
            ERRORS => fill_errors(&self.state.errors, page),
            SMART => self.fill_smart(page),
            FIRMWARE => {
                page[0] = 1;
                put(page, 8, REVISION);
            }
            EFFECTS => fill_effects(page),
            _ => {}
        }
        if dw10 & (1 << 15) == 0 {
            self.state.events.acknowledge(id);
            self.effects.schedule = true;
        }
        let len = log_len(dw10, dw11).min(row.size - first as usize);
        Ok(first as usize..first as usize + len)
    }

    fn fill_smart(&self, page: &mut [u8; PAGE]) {
        let (state, counters) = (&self.state, &self.state.counters);
        // In thousands of blocks, rounded up.
        let units = |blocks: u64| blocks.div_ceil(1000).to_le_bytes();

        page[0] = u8::from(state.features.is_hot()) << 1;
        put(page, 1, &COMPOSITE.to_le_bytes());
        // Available spare and its threshold, in percent.
        put(page, 3, &[100, 10]);
        put(page, 32, &units(counters.blocks_read));
        put(page, 48, &units(counters.blocks_written));
        put(page, 64, &counters.reads.to_le_bytes());
        put(page, 80, &counters.writes.to_le_bytes());
        // Power cycles.
        page[112] = 1;
        put(page, 176, &state.errors.count.to_le_bytes());
    }
}

/// Returns the number of bytes that a Get Log Page command asks for.
pub fn log_len(dw10: u32, dw11: u32) -> usize {
    let dwords = u64::from(dw10 >> 16) | (u64::from(dw11 & 0xffff) << 16);
    (dwords as usize + 1) * 4
}

/// The admin commands, and from byte 1024 on the I/O commands.
fn fill_effects(page: &mut [u8; PAGE]) {
    for row in &ADMIN {
        put(
            page,
            4 * usize::from(row.opcode),
            &row.effects.to_le_bytes(),
        );
    }
    for row in &NVM {
        let at = 1024 + 4 * usize::from(row.opcode);
        put(page, at, &row.effects.to_le_bytes());
    }
}

/// The entries of the error log.
fn fill_errors(log: &ErrorLog, page: &mut [u8]) {
    for (entry, out) in log.entries.iter().zip(page.chunks_exact_mut(ERROR_SIZE)) {
        if entry.number == 0 {
            break;
        }
        put(out, 0, &entry.number.to_le_bytes());
        put(out, 8, &entry.sq.to_le_bytes());
        put(out, 10, &entry.cid.to_le_bytes());
        put(out, 12, &(entry.status << 1).to_le_bytes());
        // No particular byte of the command.
        put(out, 14, &[0xff, 0xff]);
        put(out, 16, &entry.lba.to_le_bytes());
        put(out, 24, &entry.nsid.to_le_bytes());
    }
}
