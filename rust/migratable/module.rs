// SPDX-License-Identifier: GPL-2.0

//! The module of a driver that has no parameters.

/// Declares the module of a driver: its parent device with mdev types, and nothing else.
///
/// ```ignore
/// migratable::module! {
///     driver: Blink,
///     name: "blink",
///     description: "Mediated lamp that live-migrates",
///     types: [Type {
///         name: c"1", pretty_name: c"Lamp", description: "A register", config: (), cost: 1
///     }],
///     budget: 16,
/// }
/// ```
///
/// `name` is the name of the module; that of the parent device is the one in
/// [`Driver::INFO`](crate::Driver::INFO). `types` and `budget` are those of
/// [`Parent::new`](crate::Parent::new). A driver with module parameters calls that function itself, in its
/// own `kernel::Module`.
#[macro_export]
macro_rules! module {
    (
        driver: $driver:ty,
        name: $name:tt,
        description: $description:tt,
        types: [$($typ:expr),* $(,)?],
        budget: $budget:expr $(,)?
    ) => {
        ::kernel::prelude::module! {
            type: DriverModule,
            name: $name,
            authors: ["vfio-mdev-rs authors"],
            description: $description,
            license: "GPL",
        }

        /// The loaded module.
        struct DriverModule {
            _parent: $crate::Parent<$driver>,
        }

        impl ::kernel::Module for DriverModule {
            fn init(module: &'static ::kernel::ThisModule) -> ::kernel::error::Result<Self> {
                let mut types = ::kernel::alloc::KVec::new();
                $(types.push($typ, ::kernel::alloc::flags::GFP_KERNEL)?;)*
                let name = <$driver as $crate::Driver>::INFO.name;
                let section = $crate::migration::DataSectionConfig::default();
                let parent = $crate::Parent::new(module, name, types, $budget, section)?;
                Ok(Self { _parent: parent })
            }
        }
    };
}
