// SPDX-License-Identifier: GPL-2.0

//! Faults on anonymous memory, by userfaultfd.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use vfio_client::userfault::{UserFault, PAGE};

use crate::serve::{Backend, Fault};

pub(crate) struct Anonymous {
    pub(crate) faults: UserFault,
    /// Address of the memory in the process that owns it.
    pub(crate) address: u64,
    pub(crate) contents: Arc<Vec<u8>>,
}

impl Backend for Anonymous {
    fn fd(&self) -> BorrowedFd<'_> {
        self.faults.as_fd()
    }

    fn take(&mut self) -> io::Result<Option<Fault>> {
        Ok(self.faults.take()?.map(|address| Fault {
            token: address,
            offset: address.wrapping_sub(self.address),
            len: PAGE,
        }))
    }

    fn answer(&mut self, fault: &Fault) -> io::Result<()> {
        let mut page = [0; PAGE];
        let from = self.contents.get(fault.offset as usize..).unwrap_or(&[]);
        let len = from.len().min(PAGE);
        page[..len].copy_from_slice(&from[..len]);
        self.faults.fill(fault.token, &page)
    }
}
