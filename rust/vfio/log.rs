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

use kernel::{
    alloc::AllocError,
    device,
    prelude::*,
    sync::Arc, //
};
use kernel_ext::{
    debugfs::Flag,
    ratelimit::RateLimit, //
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
pub struct Refusal(pub Error, pub &'static str);

impl Refusal {
    /// A refusal by code that logs the reason itself, though not the user's bad addresses.
    pub fn logged(error: Error) -> Self {
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

/// The log of one device.
#[pin_data]
pub struct Log {
    #[pin]
    limit: RateLimit,
    /// Whether the limit applies.
    limited: Arc<Flag>,
}

impl Log {
    /// Returns a log with the kernel's default rate limit, which applies while `limited` is set.
    pub fn new(limited: Arc<Flag>) -> impl PinInit<Self> {
        pin_init!(Self {
            limited,
            limit <- RateLimit::new(),
        })
    }

    /// Prints one line that begins with the name of `dev`, unless the limit has been reached.
    pub fn refuse(&self, dev: &device::Device, reason: core::fmt::Arguments<'_>) {
        if !self.limited.is_set() || self.limit.permits() {
            dev_warn!(dev, "{reason}\n");
        }
    }
}
