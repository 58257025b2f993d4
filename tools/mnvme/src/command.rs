// SPDX-License-Identifier: GPL-2.0

//! Submission and completion queue entries.

/// Delete I/O Submission Queue.
pub const DELETE_SQ: u8 = 0x00;
/// Create I/O Submission Queue.
pub const CREATE_SQ: u8 = 0x01;
/// Get Log Page.
pub const GET_LOG_PAGE: u8 = 0x02;
/// Create I/O Completion Queue.
pub const CREATE_CQ: u8 = 0x05;
/// Identify.
pub const IDENTIFY: u8 = 0x06;
/// Asynchronous Event Request.
pub const ASYNC_EVENT: u8 = 0x0c;

/// Write.
pub const WRITE: u8 = 0x01;
/// Read.
pub const READ: u8 = 0x02;
/// Write Zeroes.
pub const WRITE_ZEROES: u8 = 0x08;

/// A submission queue entry, without its command identifier.
#[derive(Clone, Copy, Debug, Default)]
pub struct Command {
    /// Opcode.
    pub opcode: u8,
    /// Namespace.
    pub nsid: u32,
    /// The first PRP entry.
    pub prp1: u64,
    /// The second one, or the pointer to a list.
    pub prp2: u64,
    /// Dwords 10 to 15.
    pub dwords: [u32; 6],
}

impl Command {
    /// An admin command with dwords 10 and 11.
    pub fn admin(opcode: u8, dw10: u32, dw11: u32, prp1: u64) -> Self {
        Command {
            opcode,
            prp1,
            dwords: [dw10, dw11, 0, 0, 0, 0],
            ..Command::default()
        }
    }

    /// An I/O command on blocks of the namespace.
    pub fn blocks(opcode: u8, slba: u64, blocks: u32, prp1: u64, prp2: u64) -> Self {
        Command {
            opcode,
            nsid: mnvme_model::command::NAMESPACE,
            prp1,
            prp2,
            dwords: [slba as u32, (slba >> 32) as u32, blocks - 1, 0, 0, 0],
        }
    }

    /// Encodes the entry.
    pub fn encode(&self, cid: u16) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[0] = self.opcode;
        bytes[2..4].copy_from_slice(&cid.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.nsid.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.prp1.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.prp2.to_le_bytes());
        for (i, dword) in self.dwords.iter().enumerate() {
            bytes[40 + 4 * i..][..4].copy_from_slice(&dword.to_le_bytes());
        }
        bytes
    }
}

/// A completion queue entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Dword 0.
    pub result: u32,
    /// The submission queue.
    pub sq: u16,
    /// The command identifier.
    pub cid: u16,
    /// The status field without the phase tag.
    pub status: u16,
}

impl Completion {
    /// Decodes an entry, if it has this phase tag.
    pub fn decode(bytes: &[u8; 16], phase: bool) -> Option<Self> {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        ((half(14) & 1 == 1) == phase).then(|| Completion {
            result: u32::from(half(0)) | (u32::from(half(2)) << 16),
            sq: half(10),
            cid: half(12),
            status: half(14) >> 1,
        })
    }
}
