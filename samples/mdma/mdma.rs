// SPDX-License-Identifier: GPL-2.0

//! A mediated DMA engine with memory on board.
//!
//! The main sample of the framework: an invented PCI device that does real DMA to its user's memory,
//! has memory that its user maps, and migrates. `Documentation/mdma.rst` is its manual.
//!
//! | file     | contents                                                        |
//! |----------|-----------------------------------------------------------------|
//! | `model/` | a crate for kernel and tools: registers, jobs, saved state      |
//! | `bus`    | guest and device memory, for the engine                         |
//! | `memory` | registered memory                                               |
//! | `device` | all of it as a [`migratable::Driver`]                           |

mod bus;
mod device;
mod memory;

use core::borrow::Borrow;
use device::{
    Config,
    Mdma, //
};
use kernel::{
    prelude::*,
    sizes::{
        SZ_1K,
        SZ_1M, //
    },
};
use mdma_model::regs;
use migratable::{
    migration::{
        DataSectionConfig,
        Generation, //
    },
    Parent,
    Type, //
};

module! {
    type: MdmaModule,
    name: "mdma",
    authors: ["vfio-mdev-rs authors"],
    description: "Mediated DMA engine that live-migrates",
    license: "GPL",
    params: {
        memory_budget_mib: u32 {
            default: 4096,
            description: "Device memory of all devices together, in MiB",
        },
        data_section_kib: u32 {
            default: 1024,
            description: "Size of the data section of the v1 migration region, in KiB: 64 to 65536, whole pages",
        },
        mmap_data_section: u32 {
            default: 1,
            description: "1 lets users map the data section of the v1 migration region, 0 does not",
        },
        migration_abi: u32 {
            default: 1,
            description: "Migration interface of new instances: 1 (v1 and v2), 7 (v7 of 2019) or 2018",
        },
        v7_region_type: u32 {
            default: 2,
            description: "Type of the migration region of v7",
        },
        throttle_us: u32 {
            default: 0,
            description: "Value of the register THROTTLE after a reset: microseconds to wait after each unit",
        },
    },
}

/// The loaded module.
struct MdmaModule(#[expect(dead_code)] Parent<Mdma>);

/// Reads a module parameter, which the kernel returns by value or by reference, depending on its
/// version.
macro_rules! param {
    ($name:ident) => {
        *Borrow::<u32>::borrow(&module_parameters::$name.value())
    };
}

impl kernel::Module for MdmaModule {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let budget_mib = param!(memory_budget_mib);
        let data_section_kib = param!(data_section_kib);
        let throttle_us = param!(throttle_us);
        let mmap_data_section = match param!(mmap_data_section) {
            0 => false,
            1 => true,
            other => return refused("mmap_data_section", other),
        };

        if throttle_us > regs::MAX_THROTTLE_US {
            return refused("throttle_us", throttle_us);
        }
        let Ok(section) =
            DataSectionConfig::new(data_section_kib as usize * SZ_1K, mmap_data_section)
        else {
            return refused("data_section_kib", data_section_kib);
        };

        let abi = param!(migration_abi);
        let Some(generation) = Generation::from_number(abi) else {
            return refused("migration_abi", abi);
        };
        let section = section.with_generation(generation, param!(v7_region_type));

        Parent::new(
            module,
            c"mdma",
            types(throttle_us)?,
            u64::from(budget_mib) * SZ_1M as u64,
            section,
        )
        .map(Self)
    }
}

/// Logs that a module parameter is out of range. Returns `EINVAL`.
fn refused<T>(name: &str, value: u32) -> Result<T> {
    pr_err!("{}={} is out of range\n", name, value);
    Err(EINVAL)
}

/// Returns the mdev types: sysfs name, name, description, MiB of device memory.
fn types(throttle_us: u32) -> Result<KVec<Type<Mdma>>> {
    #[rustfmt::skip]
    let table = [
        (c"16M", c"DMA engine 16 MiB", "PCI DMA engine with 16 MiB of device memory; v1 and v2 migration", 16),
        (c"256M", c"DMA engine 256 MiB", "PCI DMA engine with 256 MiB of device memory; v1 and v2 migration", 256),
        (c"1G", c"DMA engine 1 GiB", "PCI DMA engine with 1 GiB of device memory; v1 and v2 migration", 1024),
    ];

    let mut types = KVec::with_capacity(table.len(), GFP_KERNEL)?;
    for (name, pretty_name, description, mib) in table {
        let memory_size = mib * SZ_1M as u64;
        types.push(
            Type {
                name,
                pretty_name,
                description,
                config: Config {
                    memory_size,
                    throttle_us,
                },
                cost: memory_size,
            },
            GFP_KERNEL,
        )?;
    }
    Ok(types)
}
