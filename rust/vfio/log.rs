// SPDX-License-Identifier: GPL-2.0

//! The log of refusals.
//!
//! Whoever is refused something gets an errno, which says little. The line here says the rest:
//! which device, what was asked and why not. Users can cause refusals at will, so each device, and
//! the creation of each type of them, has a rate limit of its own: a noisy one does not silence the
//! others. While root has `log_limit` in the driver's directory of debugfs set to `N`, none of them
//! applies: tests expect a line for each refusal.
//!
//! Only what a VMM or a stream asks for is logged. What a guest does is counted: see `debugfs.rs`.

use crate::{
    bindings,
    debugfs::Flag,
    uuid::Uuid, //
};
use kernel::{
    alloc::AllocError,
    prelude::*,
    sync::Arc,
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
    /// Whether the limit applies.
    limited: Arc<Flag>,
}

// SAFETY: A `ratelimit_state` is not tied to the thread that initialised it.
unsafe impl Send for Log {}

// SAFETY: The only use of it, `__ratelimit()`, does its own locking.
unsafe impl Sync for Log {}

impl Log {
    /// A limit with the kernel's defaults, which applies while `limited` is set.
    pub(crate) fn new(limited: Arc<Flag>) -> impl PinInit<Self> {
        pin_init!(Self {
            limited,
            limit <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes, and the whole state is initialised.
                unsafe { bindings::vfio_rs_ratelimit_default_init(slot) }
            }),
        })
    }

    /// Prints one line, unless the limit has been reached.
    pub(crate) fn refuse(&self, name: &CStr, uuid: &Uuid, reason: core::fmt::Arguments<'_>) {
        // SAFETY: `limit` was initialised by `new` and is pinned.
        let below = || unsafe { bindings::vfio_rs_ratelimit(self.limit.get()) } != 0;

        if !self.limited.is_set() || below() {
            let name = name.to_str().unwrap_or("?");
            pr_warn!("{}\n", format_args!("{name} {uuid}: {reason}"));
        }
    }
}
