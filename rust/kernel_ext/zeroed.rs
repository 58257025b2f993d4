// SPDX-License-Identifier: GPL-2.0

//! Memory that reads 0.

use kernel::{
    alloc::flags::__GFP_ZERO,
    prelude::*, //
};

/// Returns `len` zeroes, charged to the current task's user. The allocator zeroes pages, which costs a fraction of
/// writing byte by byte, as `KVVec::from_elem()` does.
pub fn zeroed(len: usize) -> Result<KVVec<u8>> {
    let mut bytes = KVVec::with_capacity(len, GFP_KERNEL_ACCOUNT | __GFP_ZERO)?;
    // SAFETY: The capacity is at least `len`, and the allocator has zeroed the elements. 0 is a valid `u8`.
    unsafe { bytes.inc_len(len) };
    Ok(bytes)
}
