// SPDX-License-Identifier: GPL-2.0

//! Bindings.
//!
//! The C interfaces of VFIO, mdev and others that the `kernel` crate does not have, on top of those
//! it has. For the crates below a device; a driver does not use them.
//!
//! `bindings_generated.rs` is what bindgen makes of `bindings_helper.h`;
//! `layout.rs` compares it with what the C compiler makes of the same headers.

mod layout;

#[allow(
    clippy::all,
    clippy::as_underscore,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]
#[cfg_attr(not(CONFIG_RUSTC_HAS_UNNECESSARY_TRANSMUTES), allow(unknown_lints))]
#[allow(unnecessary_transmutes)]
mod raw {
    use kernel::ffi;
    use pin_init::MaybeZeroable;

    // What is generated here takes precedence over a glob import.
    #[doc(no_inline)]
    pub use kernel::bindings::*;

    include!(concat!(env!("VFIO_BINDINGS_DIR"), "/bindings_generated.rs"));
}

pub use raw::*;
