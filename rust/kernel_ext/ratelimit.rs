// SPDX-License-Identifier: GPL-2.0

//! Rate limits.
//!
//! C header: [`include/linux/ratelimit.h`](srctree/include/linux/ratelimit.h)

use kernel::{
    prelude::*,
    types::Opaque, //
};
use vfio_bindings as bindings;

/// A `struct ratelimit_state`.
#[pin_data]
pub struct RateLimit {
    #[pin]
    state: Opaque<bindings::ratelimit_state>,
}

// SAFETY: A `ratelimit_state` is not tied to the thread that initialised it.
unsafe impl Send for RateLimit {}

// SAFETY: The only use of it, `__ratelimit()`, does its own locking.
unsafe impl Sync for RateLimit {}

impl RateLimit {
    /// Returns a limit with the kernel's defaults: 10 calls in 5 seconds.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes, and the whole state is initialised.
                unsafe { bindings::vfio_rs_ratelimit_default_init(slot) }
            }),
        })
    }

    /// Counts one call, and returns whether the limit permits it. Any context.
    pub fn permits(&self) -> bool {
        // SAFETY: `state` was initialised by `new` and is pinned.
        unsafe { bindings::vfio_rs_ratelimit(self.state.get()) != 0 }
    }
}
