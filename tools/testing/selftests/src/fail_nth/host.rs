// SPDX-License-Identifier: GPL-2.0

//! Fault injection while the module is loaded and instances are created, opened, closed and removed.

use std::fs;
use std::path::Path;

use vfio_client::mdev::Uuid;
use vfio_client::{Container, Group};

use crate::env::debugfs;
use crate::env::meminfo::Meminfo;
use crate::env::module::Loaded;
use crate::env::own::make;
use crate::env::{Env, Guest, Instance, SMALL};
use crate::fail_nth::device::{usable, works};
use crate::fail_nth::sweep::{leaks, Sweep, SHORT};
use crate::fixture::v2::MdmaV2;
use crate::fixture::MdmaFixture;
use crate::harness::result::Result;
use crate::note;
use crate::tests;

tests! { "fail_nth" needs [Mdma, FaultInjection]:
    creating_and_removing [],
    opening_and_closing [],
    sysfs_and_debugfs [],
    loading_the_module_odd_faults [],
    loading_the_module_even_faults [],
}

fn creating_and_removing(env: &Env) -> Result {
    let of = env.mdev_type(SMALL)?;
    let mut sweep = Sweep::new()?;
    sweep.not_in("vfio_create_group")?;
    let available = of.available_instances()?;
    let create = of.path().join("create");
    sweep.over_each(
        "create",
        &[libc::ENOMEM, libc::EFAULT, libc::EINVAL, libc::ENODEV],
        || {
            let uuid = Uuid::random()?;
            make(&uuid);
            Ok(uuid)
        },
        |uuid| fs::write(&create, uuid.as_str()),
        |uuid, refused| {
            match (refused, env.sysfs.instance(&uuid)) {
                (None, Ok(instance)) => {
                    let instance = Instance::from(instance);
                    let node = format!("/dev/vfio/{}", instance.iommu_group()?);
                    // If the node in /dev cannot be created, the driver core continues without it.
                    if Path::new(&node).exists() {
                        works(&MdmaV2::of(MdmaFixture::of(Guest::open(instance)?)?)?)?;
                    }
                }
                (Some(_), Err(_)) => {}
                (None, Err(e)) => crate::fail!("created, but the instance does not exist: {e}"),
                (Some(e), Ok(_)) => crate::fail!("refused with errno {e}, but the instance exists"),
            }
            assert_eq!(of.available_instances()?, available, "available instances");
            Ok(())
        },
    )?;
    sweep.over_each(
        "remove",
        SHORT,
        || {
            let uuid = Uuid::random()?;
            make(&uuid);
            Ok(of.create(&uuid)?.path().join("remove"))
        },
        |path| fs::write(path, "1"),
        |path, refused| {
            if refused.is_some() {
                fs::write(&path, "1")?;
            }
            assert!(!path.exists());
            assert_eq!(of.available_instances()?, available, "available instances");
            Ok(())
        },
    )?;
    let dev = MdmaV2::new(env)?;
    usable(&dev)?;
    drop(dev);
    sweep.finish()
}

fn opening_and_closing(env: &Env) -> Result {
    let instance = env.instance(SMALL)?;
    let number = instance.iommu_group()?;
    let mut sweep = Sweep::new()?;
    let nothing = || Ok(());
    sweep.over(
        "open and close a container",
        SHORT,
        nothing,
        Container::open,
        nothing,
    )?;
    // The first group of a container attaches the container to an IOMMU, or fails with ENODEV.
    sweep.over(
        "open and close a group",
        &[libc::ENOMEM, libc::EFAULT, libc::ENODEV],
        nothing,
        || {
            let container = Container::open()?;
            Group::open(number, &container)
        },
        nothing,
    )?;
    let uuid = instance.uuid.clone();
    sweep.over(
        "open and close a device",
        &[libc::ENOMEM, libc::EFAULT, libc::ENODEV],
        nothing,
        || {
            let container = Container::open()?;
            let group = Group::open(number, &container)?;
            group.device(uuid.as_str()).map(drop)
        },
        nothing,
    )?;
    {
        let container = Container::open()?;
        let group = Group::open(number, &container)?;
        sweep.over(
            "VFIO_GROUP_GET_DEVICE_FD",
            SHORT,
            nothing,
            || group.device(uuid.as_str()),
            nothing,
        )?;
        // A second descriptor of an open device.
        let _first = group.device(uuid.as_str())?;
        sweep.over(
            "VFIO_GROUP_GET_DEVICE_FD again",
            SHORT,
            nothing,
            || group.device(uuid.as_str()),
            nothing,
        )?;
    }
    let dev = MdmaV2::of(MdmaFixture::of(Guest::open(instance)?)?)?;
    usable(&dev)?;
    drop(dev);
    sweep.finish()
}

fn sysfs_and_debugfs(env: &Env) -> Result {
    let dev = MdmaV2::new(env)?;
    let of = env.mdev_type(SMALL)?;
    let mut sweep = Sweep::new()?;
    sweep.everywhere()?;
    let nothing = || Ok(());
    for name in ["available_instances", "description", "name", "device_api"] {
        let path = of.path().join(name);
        let read = || fs::read(&path);
        sweep.over(&format!("sysfs {name}"), SHORT, nothing, read, nothing)?;
    }
    let directory = Path::new("/sys/kernel/debug/mdma");
    let mut files = Vec::new();
    for instance in fs::read_dir(directory)? {
        let instance = instance?.path();
        if !instance.is_dir() {
            continue;
        }
        files.extend(debugfs::files(&instance)?.into_values());
    }
    assert!(!files.is_empty(), "{} is empty", directory.display());
    for path in files {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let read = || fs::read(&path);
        sweep.over(&format!("debugfs {name}"), SHORT, nothing, read, nothing)?;
    }
    usable(&dev)?;
    drop(dev);
    sweep.finish()
}

fn loading_the_module_odd_faults(env: &Env) -> Result {
    loading_the_module(env, 1)
}

fn loading_the_module_even_faults(env: &Env) -> Result {
    loading_the_module(env, 2)
}

/// Injects every other fault, so that two machines can share them. The kernel's own module loader has hundreds of fault
/// points, which a [`Sweep`] would check one by one.
fn loading_the_module(env: &Env, first: u32) -> Result {
    env.module.path()?;
    env.module.unload()?;
    let _loaded = Loaded(&env.module);
    let sweep = Sweep::new()?;
    sweep.everywhere()?;
    sweep.not_in("jump_label_module_notify")?;
    let before = Meminfo::settled()?;
    let (mut faults, mut refused) = (0, 0);
    for n in (first..).step_by(2) {
        let (result, failed) = sweep.failing(n, || env.module.load());
        match &result {
            Ok(()) => env.module.unload()?,
            Err(_) if failed => {
                refused += 1;
                assert!(!env.module.is_loaded(), "fault {n}: {result:?}");
            }
            Err(e) => crate::fail!("fault {n}: {e}"),
        }
        if !failed {
            break;
        }
        faults += 1;
    }
    note!(
        "faults: finit_module, every other from {first} | {faults} | {refused} | {}",
        faults - refused
    );
    assert!(refused > 0);
    let after = Meminfo::settled()?;
    for (name, kib) in Meminfo::total_growth(&before, &after) {
        note!("{name}: {kib:+} KiB");
        assert!(
            kib < 4 * i64::from(faults) + 2048,
            "{name} grew by {kib} KiB"
        );
    }
    env.module.load()?;
    let dev = MdmaV2::new(env)?;
    usable(&dev)?;
    drop(dev);
    leaks()
}
