// SPDX-License-Identifier: GPL-2.0

//! The types of a parent: what the driver says of one, and what the mdev core has of it.

use crate::{
    bindings,
    budget::Budget,
    debugfs::{
        Dir,
        Flag, //
    },
    dma::Unmaps,
    driver::Driver,
    log::Log,
    migration::DataSection, //
};
use kernel::{
    container_of,
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

/// An mdev type.
pub struct Type<T: Driver> {
    /// The type's directory is the parent's name, a dash and this.
    pub name: &'static CStr,
    /// One line for people: `name` in the type's directory.
    pub pretty_name: &'static CStr,
    /// What the type offers: `description` in the type's directory.
    pub description: &'static str,
    /// What [`Driver::new`] and [`Driver::function`] are given.
    pub config: T::Config,
    /// Bytes of the parent's budget that a device takes; not 0.
    pub cost: u64,
}

/// A [`Type`] with its place in the mdev core.
///
/// # Invariants
///
/// Pinned, and not dropped before the parent is unregistered.
#[pin_data]
pub(super) struct Entry<T: Driver> {
    #[pin]
    raw: Opaque<bindings::mdev_type>,
    #[pin]
    pub(super) log: Log,
    /// What the driver says of it.
    pub(super) typ: Type<T>,
    /// The parent's memory.
    pub(super) budget: Arc<Budget>,
    /// The driver's directory of debugfs.
    pub(super) debugfs: Dir,
    /// Whether the log of refusals is limited.
    pub(super) log_limit: Arc<Flag>,
    /// The unmaps in progress.
    pub(super) unmaps: Arc<Unmaps>,
    /// The v1 data section of the devices.
    pub(super) section: DataSection,
}

impl<T: Driver> Entry<T> {
    /// An entry that the mdev core does not know yet.
    pub(super) fn new(
        typ: Type<T>,
        budget: Arc<Budget>,
        debugfs: Dir,
        log_limit: Arc<Flag>,
        unmaps: Arc<Unmaps>,
        section: DataSection,
    ) -> Result<Pin<KBox<Self>>> {
        let raw = bindings::mdev_type {
            sysfs_name: typ.name.as_char_ptr(),
            pretty_name: typ.pretty_name.as_char_ptr(),
            ..pin_init::zeroed()
        };

        KBox::pin_init(
            pin_init!(Self {
                raw: Opaque::new(raw),
                log <- Log::new(log_limit.clone()),
                typ,
                budget,
                debugfs,
                log_limit,
                unmaps,
                section,
            }),
            GFP_KERNEL,
        )
    }

    /// What the mdev core knows the type by.
    pub(super) fn as_raw(&self) -> *mut bindings::mdev_type {
        self.raw.get()
    }

    /// The entry of a type the mdev core hands out.
    ///
    /// # Safety
    ///
    /// `raw` is an [`Entry::raw`] of the same driver, and the parent is registered for `'a`.
    pub(super) unsafe fn from_raw<'a>(raw: *mut bindings::mdev_type) -> &'a Self {
        // SAFETY: By the requirement of this function.
        unsafe { &*container_of!(Opaque::cast_from(raw), Self, raw) }
    }
}
