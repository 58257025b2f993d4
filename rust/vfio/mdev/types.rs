// SPDX-License-Identifier: GPL-2.0

//! The types of a parent: what the driver says of one, and its place in the mdev core.

use super::driver::Driver;
use kernel::{
    container_of,
    prelude::*,
    types::Opaque, //
};
use vfio_bindings as bindings;

/// An mdev type.
pub struct Type<D: Driver> {
    /// The type's directory is the parent's name, a dash and this.
    pub name: &'static CStr,
    /// One line for people: `name` in the type's directory.
    pub pretty_name: &'static CStr,
    /// What the driver knows of the type.
    pub data: D::Type,
}

/// A [`Type`] with its place in the mdev core.
///
/// # Invariants
///
/// Pinned, and not dropped before the parent is unregistered.
#[pin_data]
pub(super) struct Entry<D: Driver> {
    #[pin]
    raw: Opaque<bindings::mdev_type>,
    data: D::Type,
}

impl<D: Driver> Entry<D> {
    /// Returns an entry that the mdev core does not know yet.
    pub(super) fn new(typ: Type<D>) -> Result<Pin<KBox<Self>>> {
        let raw = bindings::mdev_type {
            sysfs_name: typ.name.as_char_ptr(),
            pretty_name: typ.pretty_name.as_char_ptr(),
            ..pin_init::zeroed()
        };

        KBox::pin_init(
            pin_init!(Self {
                raw: Opaque::new(raw),
                data: typ.data,
            }),
            GFP_KERNEL,
        )
    }

    /// Returns the `struct mdev_type`.
    pub(super) fn as_raw(&self) -> *mut bindings::mdev_type {
        self.raw.get()
    }

    /// Returns what the driver knows of a type that the mdev core hands out.
    ///
    /// # Safety
    ///
    /// `raw` is that of an [`Entry`] of the same driver, and the parent is registered for `'a`.
    pub(super) unsafe fn data<'a>(raw: *mut bindings::mdev_type) -> &'a D::Type {
        // SAFETY: By the requirement of this function.
        unsafe { &(*container_of!(Opaque::cast_from(raw), Self, raw)).data }
    }
}
