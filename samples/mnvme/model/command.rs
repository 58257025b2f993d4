// SPDX-License-Identifier: GPL-2.0

//! Commands: the tables, and the decoding of a submission queue entry.

use crate::status::Status;

/// Bytes of a submission queue entry.
pub const ENTRY_SIZE: usize = 64;

/// The only namespace.
pub const NAMESPACE: u32 = 1;

/// The namespace identifier that means all namespaces.
pub const ALL_NAMESPACES: u32 = 0xffff_ffff;

/// Bit of [`Row::effects`]: the command is supported.
const SUPPORTED: u32 = 1 << 0;
/// Bit of [`Row::effects`]: it changes the contents of logical blocks.
const CHANGES_DATA: u32 = 1 << 1;

/// An admin command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table describes the commands")]
pub enum Admin {
    DeleteSq,
    CreateSq,
    GetLogPage,
    DeleteCq,
    CreateCq,
    Identify,
    Abort,
    SetFeatures,
    GetFeatures,
    AsyncEventRequest,
}

/// A command of the NVM command set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table describes the commands")]
pub enum Nvm {
    Flush,
    Write,
    Read,
    Compare,
    WriteZeroes,
    DatasetManagement,
}

/// One row of a table of commands.
#[derive(Clone, Copy, Debug)]
pub struct Row<T> {
    /// The command.
    pub command: T,
    /// Its opcode.
    pub opcode: u8,
    /// Its name.
    pub name: &'static str,
    /// Its entry in the log page "Commands Supported and Effects".
    pub effects: u32,
    /// What it does.
    pub meaning: &'static str,
}

/// The admin commands, in ascending order of opcode.
#[rustfmt::skip]
pub const ADMIN: [Row<Admin>; 10] = [
    Row { command: Admin::DeleteSq, opcode: 0x00, name: "Delete I/O Submission Queue", effects: SUPPORTED, meaning: "Forgets the commands of the queue that are not completed." },
    Row { command: Admin::CreateSq, opcode: 0x01, name: "Create I/O Submission Queue", effects: SUPPORTED, meaning: "The queue must be contiguous. Its priority is ignored." },
    Row { command: Admin::GetLogPage, opcode: 0x02, name: "Get Log Page", effects: SUPPORTED, meaning: "Returns a log page, from the offset in dwords 12 and 13 to its end at most." },
    Row { command: Admin::DeleteCq, opcode: 0x04, name: "Delete I/O Completion Queue", effects: SUPPORTED, meaning: "No submission queue may use the queue." },
    Row { command: Admin::CreateCq, opcode: 0x05, name: "Create I/O Completion Queue", effects: SUPPORTED, meaning: "The queue must be contiguous." },
    Row { command: Admin::Identify, opcode: 0x06, name: "Identify", effects: SUPPORTED, meaning: "CNS 0: namespace. 1: controller. 2: list of active namespaces. 3: list of namespace identification descriptors." },
    Row { command: Admin::Abort, opcode: 0x08, name: "Abort", effects: SUPPORTED, meaning: "Ends a Write Zeroes or Dataset Management command in progress. All other commands complete before it, or are fetched after it." },
    Row { command: Admin::SetFeatures, opcode: 0x09, name: "Set Features", effects: SUPPORTED, meaning: "Sets the value of a feature until the next reset of the controller." },
    Row { command: Admin::GetFeatures, opcode: 0x0a, name: "Get Features", effects: SUPPORTED, meaning: "Returns the current or default value or the capabilities of a feature." },
    Row { command: Admin::AsyncEventRequest, opcode: 0x0c, name: "Asynchronous Event Request", effects: SUPPORTED, meaning: "Completes when an event occurs: a write to an invalid doorbell, an invalid doorbell value, a temperature threshold." },
];

/// The I/O commands, in ascending order of opcode.
#[rustfmt::skip]
pub const NVM: [Row<Nvm>; 6] = [
    Row { command: Nvm::Flush, opcode: 0x00, name: "Flush", effects: SUPPORTED, meaning: "Does nothing: a completed write is in the storage." },
    Row { command: Nvm::Write, opcode: 0x01, name: "Write", effects: SUPPORTED | CHANGES_DATA, meaning: "Copies from guest memory to the namespace." },
    Row { command: Nvm::Read, opcode: 0x02, name: "Read", effects: SUPPORTED, meaning: "Copies from the namespace to guest memory." },
    Row { command: Nvm::Compare, opcode: 0x05, name: "Compare", effects: SUPPORTED, meaning: "Compares guest memory with the namespace." },
    Row { command: Nvm::WriteZeroes, opcode: 0x08, name: "Write Zeroes", effects: SUPPORTED | CHANGES_DATA, meaning: "The blocks read 0, and whole pages of storage are freed. Not limited by MDTS." },
    Row { command: Nvm::DatasetManagement, opcode: 0x09, name: "Dataset Management", effects: SUPPORTED | CHANGES_DATA, meaning: "Deallocate: as Write Zeroes for each range. The other attributes are ignored." },
];

/// Returns the command of an opcode.
pub fn find<T: Copy>(table: &[Row<T>], opcode: u8) -> Result<T, Status> {
    let row = table.iter().find(|row| row.opcode == opcode);
    row.map(|row| row.command).ok_or(Status::InvalidOpcode)
}

/// A submission queue entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Opcode.
    pub opcode: u8,
    /// Fused operation and PRP or SGL selection, as in bits 8 to 15 of dword 0.
    pub flags: u8,
    /// Command identifier.
    pub cid: u16,
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
    /// Decodes an entry.
    pub fn decode(bytes: &[u8; ENTRY_SIZE]) -> Self {
        let dword = |number: usize| {
            let mut value = [0; 4];
            value.copy_from_slice(&bytes[4 * number..][..4]);
            u32::from_le_bytes(value)
        };
        let qword = |number| u64::from(dword(number)) | (u64::from(dword(number + 1)) << 32);
        let first = dword(0);

        Self {
            opcode: first as u8,
            flags: (first >> 8) as u8,
            cid: (first >> 16) as u16,
            nsid: dword(1),
            prp1: qword(6),
            prp2: qword(8),
            dwords: core::array::from_fn(|i| dword(10 + i)),
        }
    }

    /// Returns dword 10.
    pub fn dw10(&self) -> u32 {
        self.dwords[0]
    }

    /// Returns dword 11.
    pub fn dw11(&self) -> u32 {
        self.dwords[1]
    }

    /// Returns dwords 10 and 11: the first block of an I/O command.
    pub fn slba(&self) -> u64 {
        u64::from(self.dwords[0]) | (u64::from(self.dwords[1]) << 32)
    }

    /// Returns the number of blocks of an I/O command.
    pub fn blocks(&self) -> u32 {
        (self.dwords[2] & 0xffff) + 1
    }

    /// Refuses what is not supported: fused operations and SGLs.
    pub fn check(&self) -> Result<(), Status> {
        match self.flags {
            0 => Ok(()),
            _ => Err(Status::InvalidField),
        }
    }
}
