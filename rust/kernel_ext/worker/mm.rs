// SPDX-License-Identifier: GPL-2.0

//! The identity of a process: its address space.

use core::ptr;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// The identity of a process: the address of its address space.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mm(usize);

impl Mm {
    /// No process: a thread of the kernel.
    pub const NOBODY: Self = Self(0);

    /// The process of the current task.
    pub fn current() -> Self {
        kernel::current!()
            .mm()
            .map_or(Self::NOBODY, |mm| Self(ptr::from_ref(mm).addr()))
    }
}

/// An [`Mm`] that can be changed through a shared reference.
pub struct AtomicMm(Atomic<usize>);

impl AtomicMm {
    /// Returns the identity of no process.
    pub const fn nobody() -> Self {
        Self(Atomic::new(0))
    }

    /// Returns the process.
    pub fn load(&self) -> Mm {
        Mm(self.0.load(Relaxed))
    }

    /// Stores another process.
    pub fn store(&self, mm: Mm) {
        self.0.store(mm.0, Relaxed);
    }
}
