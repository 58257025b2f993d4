// SPDX-License-Identifier: GPL-2.0

//! A mediated NVMe controller with one namespace in device memory.
//!
//! A sample of the framework that the guest's own driver runs: `nvme` of Linux, SeaBIOS and others.
//! `Documentation/mnvme.rst` is its data sheet.
//!
//! | file     | contents                                                         |
//! |----------|------------------------------------------------------------------|
//! | `model/` | a crate for kernel and tools: registers, commands, saved state   |
//! | `device` | the model as a [`migratable::Driver`]                            |

mod device;

use core::borrow::Borrow;
use device::{
    Config,
    Nvme, //
};
use kernel::{
    prelude::*,
    sizes::SZ_1M, //
};
use migratable::{
    migration::DataSectionConfig,
    Parent,
    Type, //
};

module! {
    type: NvmeModule,
    name: "mnvme",
    authors: ["vfio-mdev-rs authors"],
    description: "Mediated NVMe controller that live-migrates",
    license: "GPL",
    params: {
        memory_budget_mib: u32 {
            default: 8192,
            description: "Storage of all controllers together, in MiB",
        },
    },
}

/// The loaded module.
struct NvmeModule(#[expect(dead_code)] Parent<Nvme>);

impl kernel::Module for NvmeModule {
    fn init(module: &'static ThisModule) -> Result<Self> {
        // The kernel returns a parameter by value or by reference, depending on its version.
        let budget = *Borrow::<u32>::borrow(&module_parameters::memory_budget_mib.value());
        let budget = u64::from(budget) * SZ_1M as u64;
        let section = DataSectionConfig::default();
        Parent::new(module, c"mnvme", types()?, budget, section).map(Self)
    }
}

/// Returns the mdev types.
fn types() -> Result<KVec<Type<Nvme>>> {
    #[rustfmt::skip]
    let table = [
        (c"64M", c"NVMe controller 64 MiB", "NVMe 1.4 controller, one namespace of 64 MiB; v1 and v2 migration", 64),
        (c"256M", c"NVMe controller 256 MiB", "NVMe 1.4 controller, one namespace of 256 MiB; v1 and v2 migration", 256),
        (c"1G", c"NVMe controller 1 GiB", "NVMe 1.4 controller, one namespace of 1 GiB; v1 and v2 migration", 1024),
        (c"4G", c"NVMe controller 4 GiB", "NVMe 1.4 controller, one namespace of 4 GiB; v1 and v2 migration", 4096),
    ];

    let mut types = KVec::with_capacity(table.len(), GFP_KERNEL)?;
    for (name, pretty_name, description, mib) in table {
        let size = mib * SZ_1M as u64;
        types.push(
            Type {
                name,
                pretty_name,
                description,
                config: Config { size },
                cost: size,
            },
            GFP_KERNEL,
        )?;
    }
    Ok(types)
}
