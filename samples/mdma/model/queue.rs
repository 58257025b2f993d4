// SPDX-License-Identifier: GPL-2.0

//! The ring: indexes and addresses.
//!
//! The device takes descriptors from `head` up to but not including `tail`. Both are indexes into a
//! ring whose number of entries is a power of two. `head == tail` means that the ring is empty, so
//! one entry always stays free.

use crate::desc::{COMPLETION_SIZE, DESCRIPTOR_SIZE};
use crate::regs::{Reg, MAX_RING_ORDER};

/// A ring of `1 << order` descriptors with as many completion records.
///
/// # Invariants
///
/// - `order` is in `1..=MAX_RING_ORDER`.
/// - `base` is a multiple of 64 and `completions` of 32; neither array exceeds 2^64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    base: u64,
    completions: u64,
    order: u32,
}

impl Ring {
    /// Creates the ring that the registers describe. The error is the register that is illegal.
    pub fn new(base: u64, order: u32, completions: u64) -> Result<Ring, Reg> {
        if order == 0 || order > MAX_RING_ORDER {
            return Err(Reg::RingOrder);
        }
        // INVARIANT: Checked above and below.
        let ring = Ring {
            base,
            completions,
            order,
        };
        let fits = |at: u64, align: usize, len: usize| {
            at % align as u64 == 0 && at.checked_add(len as u64 - 1).is_some()
        };
        if !fits(base, DESCRIPTOR_SIZE, ring.descriptors_len()) {
            return Err(Reg::RingBase);
        }
        if !fits(completions, COMPLETION_SIZE, ring.completions_len()) {
            return Err(Reg::CompletionBase);
        }
        Ok(ring)
    }

    /// Returns the number of entries.
    #[inline]
    pub fn entries(&self) -> u32 {
        1 << self.order
    }

    /// Returns whether `index` is the index of an entry.
    pub fn contains(&self, index: u32) -> bool {
        index < self.entries()
    }

    /// Returns the index after `index`.
    #[inline]
    pub fn next(&self, index: u32) -> u32 {
        (index + 1) & (self.entries() - 1)
    }

    /// Returns the number of descriptors from `head` up to `tail`.
    pub fn pending(&self, head: u32, tail: u32) -> u32 {
        tail.wrapping_sub(head) & (self.entries() - 1)
    }

    /// Returns the IOVA of the descriptors.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Returns the IOVA of the completion records.
    pub fn completions(&self) -> u64 {
        self.completions
    }

    /// Returns the size of all descriptors in bytes.
    #[inline]
    pub fn descriptors_len(&self) -> usize {
        DESCRIPTOR_SIZE << self.order
    }

    /// Returns the size of all completion records in bytes.
    #[inline]
    pub fn completions_len(&self) -> usize {
        COMPLETION_SIZE << self.order
    }

    /// Returns the offset of descriptor `index` from [`Ring::base`], in bytes.
    #[inline]
    pub fn descriptor_at(&self, index: u32) -> usize {
        index as usize * DESCRIPTOR_SIZE
    }

    /// Returns the offset of completion record `index` from [`Ring::completions`], in bytes.
    #[inline]
    pub fn completion_at(&self, index: u32) -> usize {
        index as usize * COMPLETION_SIZE
    }
}
