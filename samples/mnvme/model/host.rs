// SPDX-License-Identifier: GPL-2.0

//! The machine around the controller: guest memory, storage and the lock.

use crate::controller::Controller;
use crate::status::Status;

/// What tells one controller from another: a UUID.
pub type Identity = [u8; 16];

/// Why memory cannot be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Guest memory is not accessible.
    Guest,
    /// There is no memory for the storage.
    Storage,
}

/// The machine around the controller. A failed copy may be partly done.
pub trait Host {
    /// Locks the controller, and afterwards carries out its [`Effects`](crate::controller::Effects).
    fn lock<R>(&self, access: impl FnOnce(&mut Controller) -> R) -> R;

    /// Copies from guest memory.
    fn read(&self, iova: u64, data: &mut [u8]) -> Result<(), Fault>;

    /// Copies to guest memory.
    fn write(&self, iova: u64, data: &[u8]) -> Result<(), Fault>;

    /// Copies from storage.
    fn load(&self, at: u64, data: &mut [u8]) -> Result<(), Fault>;

    /// Copies to storage.
    fn store(&self, at: u64, data: &[u8]) -> Result<(), Fault>;

    /// Copies from guest memory to storage.
    fn guest_to_storage(&self, iova: u64, at: u64, len: usize) -> Result<(), Fault>;

    /// Copies from storage to guest memory.
    fn storage_to_guest(&self, at: u64, iova: u64, len: usize) -> Result<(), Fault>;

    /// Sets storage to zero.
    fn zero(&self, at: u64, len: usize) -> Result<(), Fault>;

    /// Returns the UUID of a new controller.
    fn uuid(&self) -> Identity;
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Guest => Status::DataTransferError,
            Fault::Storage => Status::WriteFault,
        }
    }
}
