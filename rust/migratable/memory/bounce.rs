// SPDX-License-Identifier: GPL-2.0

//! A page for copies of what may change meanwhile.

use super::pages::PageRef;
use kernel::prelude::*;

/// A page of the kernel for contents that may change. It is allocated at the first use.
pub(crate) struct Bounce(Option<PageRef>);

impl Bounce {
    /// Returns a page that is not allocated.
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// Returns its address: `PAGE_SIZE` bytes that nobody else accesses.
    pub(super) fn address(&mut self) -> Result<*mut u8> {
        if self.0.is_none() {
            self.0 = Some(PageRef::uninit()?);
        }
        self.0.as_ref().map(PageRef::address).ok_or(ENOMEM)
    }
}
