// SPDX-License-Identifier: GPL-2.0

//! The mdev parent and its types, as a driver declares them.
//!
//! Devices cost memory, of which the parent has a budget: `available_instances` of a type is how many
//! fit into the rest of it.

use crate::{
    budget::Budget,
    driver::Driver,
    migration::DataSectionConfig,
    registration::{
        Registration,
        Resources, //
    },
};
use kernel::{
    prelude::*,
    ThisModule, //
};
use kernel_ext::{
    debugfs::{
        Dir,
        Flag, //
    },
    worker, //
};
use vfio::{
    dma::{
        Unmaps,
        UnpinQueue, //
    },
    log::Log,
    mdev, //
};

/// An mdev type.
pub struct Type<T: Driver> {
    /// The type's directory is the parent's name, a dash and this.
    pub name: &'static CStr,
    /// One line for people: `name` in the type's directory.
    pub pretty_name: &'static CStr,
    /// What the type offers: `description` in the type's directory.
    pub description: &'static str,
    /// The argument of [`Driver::new`] and [`Driver::function`].
    pub config: T::Config,
    /// Bytes of the parent's budget that a device takes; not 0.
    pub cost: u64,
}

/// An mdev parent and everything it needs.
///
/// Dropping it removes the devices, each after its last user has closed it, and then the parent.
/// A module holds a `Parent` for as long as it is loaded; it cannot be unloaded while a device
/// is open.
pub struct Parent<T: Driver> {
    _parent: mdev::Parent<Registration<T>>,
    // Dropped after the parent: waits for work items that still unpin.
    _unpin: UnpinQueue,
}

impl<T: Driver> Parent<T> {
    /// Registers the parent device `name` with its types.
    ///
    /// `budget` is the memory, in bytes, that the devices share. `section` is the v1 data section of each
    /// device. `EINVAL` if a type describes no device; the log says which and why.
    pub fn new(
        module: &'static ThisModule,
        name: &'static CStr,
        types: KVec<Type<T>>,
        budget: u64,
        section: DataSectionConfig,
    ) -> Result<Self> {
        let budget = Budget::new(budget)?;
        let debugfs = Dir::new(T::INFO.name, None)?;
        let log_limit = Flag::new(c"log_limit", &debugfs)?;
        let unpin = UnpinQueue::new(T::INFO.name)?;
        // SAFETY: The queue is dropped after the parent, which removes all devices.
        let unmaps = unsafe { Unmaps::new(&unpin)? };
        let mut entries = KVec::with_capacity(types.len(), GFP_KERNEL)?;

        for typ in types {
            Self::check(&typ)?;
            let data = Resources {
                config: typ.config,
                description: typ.description,
                cost: typ.cost,
                budget: budget.clone(),
                debugfs: debugfs.clone(),
                unmaps: unmaps.clone(),
                section,
                log_limit: log_limit.clone(),
                log: KBox::pin_init(Log::new(log_limit.clone()), GFP_KERNEL)?,
            };
            let typ = mdev::Type {
                name: typ.name,
                pretty_name: typ.pretty_name,
                data,
            };
            entries.push(typ, GFP_KERNEL)?;
        }

        let parent = mdev::Parent::new(module, name, entries)?;
        worker::announce(T::INFO.name);
        Ok(Self {
            _parent: parent,
            _unpin: unpin,
        })
    }

    /// Checks the description of a type.
    fn check(typ: &Type<T>) -> Result {
        let function = T::function(&typ.config).check();
        let cost = (typ.cost != 0)
            .then_some(())
            .ok_or("a device costs nothing");

        function.and(cost).map_err(|reason| {
            pr_err!(
                "{} type {}: {}\n",
                T::INFO.name.to_str().unwrap_or("?"),
                typ.name.to_str().unwrap_or("?"),
                reason
            );
            EINVAL
        })
    }
}
