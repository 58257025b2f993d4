// SPDX-License-Identifier: GPL-2.0

//! Tracepoints that this module defines.
//!
//! `kernel::tracepoint` looks for them in the bindings of the kernel. These are in our own.
//!
//! C header: [`include/linux/tracepoint.h`](srctree/include/linux/tracepoint.h)

/// Declares the Rust entry points of tracepoints, as `kernel::declare_trace!` does.
///
/// While an event is off, a call costs a static branch. Arguments are evaluated in any case, so pass what is
/// at hand, and ask `NAME_enabled()` before anything that costs more. A kernel without `CONFIG_TRACEPOINTS`
/// has no events.
#[macro_export]
macro_rules! declare_trace {
    ($($(#[$attr:meta])* $pub:vis unsafe fn $name:ident($($argname:ident : $argtyp:ty),* $(,)?);)*) => {$(
        $(#[$attr])*
        #[inline(always)]
        $pub unsafe fn $name($($argname: $argtyp),*) {
            #[cfg(CONFIG_TRACEPOINTS)]
            ::kernel::macros::paste! {
                if [<$name _enabled>]() {
                    // SAFETY: By the requirements of this function.
                    unsafe { ::vfio_bindings::[<rust_do_trace_ $name>]($($argname),*) };
                }
            }
            #[cfg(not(CONFIG_TRACEPOINTS))]
            {
                $(let _ = $argname;)*
            }
        }

        ::kernel::macros::paste! {
            /// Returns whether somebody watches the event.
            #[inline(always)]
            $pub fn [<$name _enabled>]() -> bool {
                #[cfg(CONFIG_TRACEPOINTS)]
                // SAFETY: The key is part of a tracepoint that C code defines.
                unsafe {
                    ::kernel::jump_label::static_branch_unlikely!(
                        ::vfio_bindings::[<__tracepoint_ $name>],
                        ::vfio_bindings::tracepoint,
                        key
                    )
                }
                #[cfg(not(CONFIG_TRACEPOINTS))]
                false
            }
        }
    )*};
}
