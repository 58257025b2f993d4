// SPDX-License-Identifier: GPL-2.0

//! The log of refusals.
//!
//! Whoever is refused something gets an errno, which says little. The line here says the rest:
//! which device, what was asked and why not. Users can cause refusals at will, so each device, and
//! the creation of each type of them, has a rate limit of its own: a noisy one does not silence the
//! others.
//!
//! Only what a VMM or a stream asks for is logged. What a guest does is counted: see `debugfs.rs`.

use crate::{
    bindings,
    uuid::Uuid, //
};
use kernel::{
    alloc::AllocError,
    prelude::*,
    types::Opaque, //
};

/// Logs, rate-limited, why a device refused something.
///
/// The first argument is a [`Device`](crate::Device).
///
/// ```ignore
/// vfio::refuse!(dev, "saved state: {} bytes too many", state.remaining());
/// return Err(EINVAL);
/// ```
#[macro_export]
macro_rules! refuse {
    ($to:expr, $($arg:tt)+) => {
        $to.refuse(::core::format_args!($($arg)+))
    };
}

/// Something that is refused, and why.
///
/// For the code that finds out what is wrong and leaves the logging to its caller, who knows what
/// was asked. An empty reason means that it has been logged.
#[derive(Clone, Copy)]
pub(crate) struct Refusal(pub(crate) Error, pub(crate) &'static str);

impl Refusal {
    /// A refusal by code that logs the reason itself, though not the user's bad addresses.
    pub(crate) fn logged(error: Error) -> Self {
        if error == EFAULT {
            error.into()
        } else {
            Self(error, "")
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let reason = if error == EFAULT {
            "the address given is not accessible"
        } else if error == ENOMEM {
            "out of memory"
        } else {
            "failed"
        };
        Self(error, reason)
    }
}

impl From<AllocError> for Refusal {
    fn from(error: AllocError) -> Self {
        Error::from(error).into()
    }
}

/// A rate limit.
#[pin_data]
pub(crate) struct Log {
    #[pin]
    limit: Opaque<bindings::ratelimit_state>,
}

// SAFETY: A `ratelimit_state` is not tied to the thread that initialised it.
unsafe impl Send for Log {}

// SAFETY: The only use of it, `__ratelimit()`, does its own locking.
unsafe impl Sync for Log {}

impl Log {
    /// A limit with the kernel's defaults.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            limit <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes, and the whole state is initialised.
                unsafe { bindings::vfio_rs_ratelimit_default_init(slot) }
            }),
        })
    }

    /// Prints one line, unless the limit has been reached.
    pub(crate) fn refuse(&self, name: &CStr, uuid: &Uuid, reason: core::fmt::Arguments<'_>) {
        // SAFETY: `limit` was initialised by `new` and is pinned.
        if unsafe { bindings::vfio_rs_ratelimit(self.limit.get()) } != 0 {
            let name = name.to_str().unwrap_or("?");
            pr_warn!("{}\n", format_args!("{name} {uuid}: {reason}"));
        }
    }
}
