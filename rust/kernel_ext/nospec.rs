// SPDX-License-Identifier: GPL-2.0

//! Indices from users, kept inside their table under speculation too.
//!
//! C header: [`include/linux/nospec.h`](srctree/include/linux/nospec.h)

use vfio_bindings as bindings;

/// `index` if it is below `size`, else 0; also on a path that the CPU only guesses.
///
/// To be called after the bounds check, as `array_index_nospec()` is.
#[inline]
pub fn index(index: usize, size: usize) -> usize {
    // SAFETY: An FFI call without requirements.
    unsafe { bindings::vfio_rs_array_index_nospec(index, size) }
}
