// SPDX-License-Identifier: GPL-2.0

//! The choice of the interface: an attribute before the first open, and module parameters.

use vfio_client::{v2018, v7, Device};

use crate::env::{Env, Guest, SMALL};
use crate::harness::result::Result;
use crate::history::{Old, V2018, V7};
use crate::{assert_errno, assert_refused, tests};

tests! { "history_choice" needs [Mdma]:
    one_kind_of_region_is_shown ["P36", "P37"],
    it_is_chosen_before_the_first_open [],
    other_names_are_refused [],
    a_parameter_sets_the_default [],
    a_parameter_sets_the_type_of_v7 ["P36"],
    both_save_and_load_without_a_mapping ["P36", "P37"],
}

/// The types of the regions of all interfaces, in the order of [`ABIS`].
const TYPES: [(u32, u32); 3] = [
    (3, 1),
    (v7::TYPE, v7::SUBTYPE),
    (v2018::TYPE, v2018::SUBTYPE),
];
const ABIS: [&str; 3] = ["v1", "v7", "2018"];

/// Checks that a device shows what belongs to an interface, and nothing of another.
fn expect(device: &Device, abi: &str) -> Result {
    for (name, (kind, subtype)) in ABIS.into_iter().zip(TYPES) {
        let found = device.region_of_type(kind, subtype)?;
        assert_eq!(
            found.is_some(),
            name == abi,
            "{abi} shows the region of {name}"
        );
    }
    let v2 = device.migration_v2()?.is_some();
    assert_eq!(v2, abi == "v1", "{abi} and v2's migration feature");
    if abi != "v1" {
        assert!(!device.can_log_dma()?, "{abi} and v2's DMA logging");
    }
    Ok(())
}

fn one_kind_of_region_is_shown(env: &Env) -> Result {
    expect(&env.open(SMALL)?.device, "v1")?;
    for abi in ABIS {
        let instance = env.instance(SMALL)?;
        assert_eq!(instance.migration_abi()?.as_deref(), Some("v1"));
        // The last choice counts.
        for name in ["2018", "v7", "v1", abi] {
            instance.set_migration_abi(name)?;
            assert_eq!(instance.migration_abi()?.as_deref(), Some(name));
        }
        let guest = Guest::open(instance)?;
        expect(&guest.device, abi)?;
        guest.device.reset()?;
        expect(&guest.device, abi)?;
    }
    Ok(())
}

fn it_is_chosen_before_the_first_open(env: &Env) -> Result {
    let instance = env.instance(SMALL)?;
    instance.set_migration_abi("v7")?;
    let guest = Guest::open(instance)?;
    for name in ABIS {
        assert_errno!(
            guest.instance.set_migration_abi(name),
            EBUSY,
            "{name}, open"
        );
    }
    let uuid = guest.uuid().to_owned();
    let instance = guest.close();
    let set = || instance.set_migration_abi("v1");
    assert_refused!(env, &uuid, set(), EBUSY, "opened before");
    assert_eq!(instance.migration_abi()?.as_deref(), Some("v7"));
    expect(&Guest::open(instance)?.device, "v7")
}

fn other_names_are_refused(env: &Env) -> Result {
    let instance = env.instance(SMALL)?;
    instance.set_migration_abi("2018\n")?;
    for name in ["", "v2", "V7", "v1 ", "7", "v77", "2018\n\n"] {
        let result = std::fs::write(instance.path().join("migration_abi"), name);
        match name {
            // No call reaches the driver.
            "" => result?,
            _ => {
                let errno = result.map_err(|e| e.raw_os_error());
                assert_eq!(errno, Err(Some(libc::EINVAL)), "{name:?}");
            }
        }
        assert_eq!(instance.migration_abi()?.as_deref(), Some("2018"));
    }
    Ok(())
}

fn a_parameter_sets_the_default(env: &Env) -> Result {
    for (number, abi) in [(1, "v1"), (7, "v7"), (2018, "2018")] {
        env.module.with(&format!("migration_abi={number}"), || {
            let guest = env.open(SMALL)?;
            assert_eq!(guest.instance.migration_abi()?.as_deref(), Some(abi));
            expect(&guest.device, abi)?;
            drop(guest);
            let instance = env.instance(SMALL)?;
            instance.set_migration_abi("v1")?;
            expect(&Guest::open(instance)?.device, "v1")
        })?;
    }
    env.module.with("migration_abi=1", || {
        env.module.unload()?;
        for number in [0, 2, 2019] {
            let loaded = env.module.load_with(&format!("migration_abi={number}"))?;
            let errno = loaded.map_err(|e| e.raw_os_error());
            assert_eq!(errno, Err(Some(libc::EINVAL)), "migration_abi={number}");
        }
        Ok(())
    })
}

fn a_parameter_sets_the_type_of_v7(env: &Env) -> Result {
    env.module.with("v7_region_type=77", || {
        let instance = env.instance(SMALL)?;
        instance.set_migration_abi("v7")?;
        let guest = Guest::open(instance)?;
        assert!(guest.device.migration_v7()?.is_none());
        let found = v7::Migration::find(&guest.device, 77)?;
        assert!(found.is_some());
        Ok(())
    })
}

fn both_save_and_load_without_a_mapping(env: &Env) -> Result {
    env.module
        .with("mmap_data_section=0 data_section_kib=64", || {
            let (source, destination) = (V7::old(env)?, V7::old(env)?);
            moves(&source, &destination)?;
            let (source, destination) = (V2018::old(env)?, V2018::old(env)?);
            moves(&source, &destination)
        })
}

/// Moves a device whose section cannot be mapped.
fn moves<M: Old>(
    source: &crate::fixture::MdmaFixture<M>,
    destination: &crate::fixture::MdmaFixture<M>,
) -> Result {
    assert!(source.migration.section().mapping().is_none());
    source.fill_state(&[0, 1, 2, 100, 4095])?;
    let bytes = source.save_old()?;
    destination.load_old(&bytes)?;
    source.expect_same(destination, M::ABI)
}
