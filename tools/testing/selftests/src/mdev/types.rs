// SPDX-License-Identifier: GPL-2.0

//! The parent, its types, and the creation and removal of instances through sysfs.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Barrier, Mutex};
use std::thread;

use vfio_client::mdev::{Type, Uuid};

use crate::env::own::make;
use crate::env::{Env, Instance, LARGE, MEDIUM, SMALL};
use crate::harness::result::Result;
use crate::{assert_errno, assert_refused, note, tests};

tests! { "mdev":
    types_and_their_attributes [] needs [Mdma],
    names_have_plain_characters [],
    attributes_keep_their_modes [],
    available_instances_follows_every_create [] needs [Mdma],
    available_instances_fall_to_0 [],
    types_share_one_budget [] needs [Mdma],
    instance_is_linked_to_type_group_and_driver [],
    malformed_uuid_is_refused [],
    duplicate_uuid_is_refused [],
    beyond_the_budget_is_refused [] needs [Mdma],
    creates_race_for_the_last_place [] needs [Mdma],
    equal_uuids_race [],
    remove_takes_a_number [],
    removed_twice [],
    sixty_four_instances [] needs [Mdma],
    creates_race_with_unloading [],
}

/// The types and their sizes of device memory in bytes.
const TYPES: [(&str, u64); 3] = [(SMALL, 16 << 20), (MEDIUM, 256 << 20), (LARGE, 1 << 30)];

/// Returns the directory of a type.
fn type_dir(env: &Env, of: &str) -> Result<PathBuf> {
    Ok(env.mdev_type(of)?.path().to_path_buf())
}

/// Writes to an existing sysfs file in one call.
fn store(path: impl Into<PathBuf>, text: &str) -> io::Result<()> {
    let path = path.into();
    let written = OpenOptions::new()
        .write(true)
        .open(path)?
        .write(text.as_bytes())?;
    assert_eq!(written, text.len(), "a short write to sysfs");
    Ok(())
}

/// Uses the whole budget except for `left` instances of the smallest type.
fn fill_up(env: &Env, left: u32) -> Result<Vec<Instance>> {
    let mut held = Vec::new();
    // Leave enough of the budget for `left` small instances.
    let spare = left.min(1);
    for (of, stop) in [(LARGE, spare), (MEDIUM, spare), (SMALL, left)] {
        let t = env.mdev_type(of)?;
        while t.available_instances()? > stop {
            held.push(env.instance(of)?);
        }
    }
    assert_eq!(env.mdev_type(SMALL)?.available_instances()?, left);
    Ok(held)
}

fn types_and_their_attributes(env: &Env) -> Result {
    let parent = env.sysfs.parent("mdma")?;
    let found: BTreeSet<_> = parent.types()?.into_iter().map(|t| t.id).collect();
    let expected: BTreeSet<_> = TYPES.iter().map(|(id, _)| id.to_string()).collect();
    assert_eq!(found, expected);

    let mut names = BTreeSet::new();
    for t in parent.types()? {
        assert_eq!(t.device_api()?, "vfio-pci");
        let name = t.name()?;
        assert!(!name.is_empty() && name != t.id, "{}: name {name:?}", t.id);
        assert!(
            names.insert(name),
            "{}: another type has the same name",
            t.id
        );
        let description = t.description()?.unwrap_or_default();
        let size = t.id.rsplit('-').next().unwrap_or_default();
        let number: String = size.chars().take_while(char::is_ascii_digit).collect();
        assert!(
            description.contains(&number) && description.lines().count() == 1,
            "{}: description {description:?}",
            t.id
        );
        assert!(t.instances()?.is_empty());
    }
    Ok(())
}

/// Tools put these into file names, options separated by commas, shell commands and resource names.
fn names_have_plain_characters(env: &Env) -> Result {
    let plain = |text: &str, more: &str| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
        !text.is_empty() && text.chars().all(is_plain)
    };
    let parent = env.mdev_type(env.subject())?.parent;
    assert!(plain(&parent, "-"), "parent {parent:?}");
    for t in env.sysfs.parent(&parent)?.types()? {
        assert!(plain(&t.id, "-"), "{:?}", t.id);
        // Tools replace spaces by underscores.
        assert!(plain(&t.name()?, "- "), "{}: name {:?}", t.id, t.name()?);
    }
    Ok(())
}

fn attributes_keep_their_modes(env: &Env) -> Result {
    let instance = env.instance(env.subject())?;
    let before = env.mdev_type(env.subject())?.available_instances()?;
    for name in ["name", "device_api", "available_instances", "description"] {
        let path = type_dir(env, env.subject())?.join(name);
        assert_errno!(store(&path, "1"), EACCES, "write to {name}");
        assert!(fs::read_to_string(&path)?.ends_with('\n'), "{name}");
    }
    assert_errno!(
        fs::read_to_string(type_dir(env, env.subject())?.join("create")),
        EACCES
    );
    assert_errno!(fs::read_to_string(instance.path().join("remove")), EACCES);
    assert_eq!(env.mdev_type(env.subject())?.available_instances()?, before);
    Ok(())
}

fn available_instances_follows_every_create(env: &Env) -> Result {
    for (of, _) in TYPES {
        let t = env.mdev_type(of)?;
        let all = t.available_instances()?;
        assert!(all >= 2, "{of}: {all} instances");
        let mut held = Vec::new();
        for n in 1..=all.min(5) {
            held.push(env.instance(of)?);
            assert_eq!(t.available_instances()?, all - n, "{of} after {n}");
            assert_eq!(t.instances()?.len(), n as usize);
        }
        while let Some(instance) = held.pop() {
            instance.remove()?;
            assert_eq!(t.available_instances()?, all - held.len() as u32);
        }
    }
    Ok(())
}

/// The types share the budget of the module parameter exactly.
fn types_share_one_budget(env: &Env) -> Result {
    let budget = env.module.param("memory_budget_mib") << 20;
    let check = |used: u64| -> Result {
        for (of, cost) in TYPES {
            let found = u64::from(env.mdev_type(of)?.available_instances()?);
            assert_eq!(found, (budget - used) / cost, "{of} with {used:#x} in use");
        }
        Ok(())
    };
    let (mut used, mut held) = (0, Vec::new());
    check(used)?;
    for (of, cost) in TYPES.into_iter().chain(TYPES.into_iter().rev()) {
        held.push((env.instance(of)?, cost));
        used += cost;
        check(used)?;
    }
    for (instance, cost) in held {
        instance.remove()?;
        used -= cost;
        check(used)?;
    }
    Ok(())
}

fn instance_is_linked_to_type_group_and_driver(env: &Env) -> Result {
    let a = env.instance(env.subject())?;
    let other = another_type(env)?;
    let b = env.instance(&other)?;
    assert_eq!(a.type_id()?, env.subject());
    assert_eq!(b.type_id()?, other);
    assert_eq!(a.parent()?, env.module.name());
    assert_ne!(
        a.iommu_group()?,
        b.iommu_group()?,
        "two instances share an IOMMU group"
    );
    let driver = fs::read_link(a.path().join("driver"))?;
    assert_eq!(
        driver.file_name().and_then(|n| n.to_str()),
        Some(env.module.name())
    );
    assert!(env.mdev_type(env.subject())?.instances()?.contains(&a.uuid));
    let all: Vec<_> = env.own_instances()?.into_iter().map(|i| i.uuid).collect();
    assert!(all.contains(&a.uuid) && all.contains(&b.uuid) && all.len() == 2);

    let uuid = a.uuid.clone();
    a.remove()?;
    assert_errno!(
        fs::metadata(format!("/sys/bus/mdev/devices/{uuid}")),
        ENOENT
    );
    assert!(!env.mdev_type(env.subject())?.instances()?.contains(&uuid));
    Ok(())
}

/// Creates instances until the type has no more, at most this many.
const MANY: u32 = 20;

/// The number of available instances falls with each creation, down to 0, where another is refused.
fn available_instances_fall_to_0(env: &Env) -> Result {
    let t = env.mdev_type(env.subject())?;
    let all = t.available_instances()?;
    assert!(all >= 2, "{all} instances");
    let mut held = Vec::new();
    for n in 1..=all.min(MANY) {
        held.push(env.instance(env.subject())?);
        assert_eq!(t.available_instances()?, all - n, "after {n}");
    }
    if all <= MANY {
        let uuid = Uuid::random()?;
        make(&uuid);
        assert_errno!(t.create(&uuid), ENOSPC, "beyond {all} instances");
        assert!(!t.instances()?.contains(&uuid));
    }
    while let Some(instance) = held.pop() {
        instance.remove()?;
        assert_eq!(t.available_instances()?, all - held.len() as u32);
    }
    Ok(())
}

fn malformed_uuid_is_refused(env: &Env) -> Result {
    let before = env.mdev_type(env.subject())?.available_instances()?;
    for text in [
        "x",
        "83b8f4f2-509f-382f-3c1e-e6bfe0fa100",
        "83b8f4f2-509f-382f-3c1e-e6bfe0fa10011 ",
        "83b8f4f2-509f-382f-3c1e-e6bfe0fa10g1",
        "83b8f4f2_509f_382f_3c1e_e6bfe0fa1001",
        "{83b8f4f2-509f-382f-3c1e-e6bfe0fa100}",
    ] {
        assert_errno!(
            store(type_dir(env, env.subject())?.join("create"), text),
            EINVAL,
            "create {text:?}"
        );
    }
    assert!(env.own_instances()?.is_empty());
    assert_eq!(env.mdev_type(env.subject())?.available_instances()?, before);
    Ok(())
}

/// Returns another type of the same parent, or the same if there is only one.
fn another_type(env: &Env) -> Result<String> {
    let types = env.sysfs.parent(env.module.name())?.types()?;
    let mut others = types
        .into_iter()
        .map(|t| t.id)
        .filter(|id| id != env.subject());
    Ok(others.next().unwrap_or(env.subject().into()))
}

fn duplicate_uuid_is_refused(env: &Env) -> Result {
    let instance = env.instance(env.subject())?;
    let upper = instance.uuid.as_str().to_uppercase();
    let other = another_type(env)?;
    let other = other.as_str();
    let before = env.mdev_type(env.subject())?.available_instances()?;
    for (of, text) in [
        (env.subject(), instance.uuid.as_str()),
        (other, instance.uuid.as_str()),
        (env.subject(), &upper),
    ] {
        assert_errno!(
            store(type_dir(env, of)?.join("create"), text),
            EEXIST,
            "{of}: {text}"
        );
    }
    assert_eq!(env.mdev_type(env.subject())?.available_instances()?, before);
    // The existing instance still works.
    instance.open_alone()?;
    Ok(())
}

fn beyond_the_budget_is_refused(env: &Env) -> Result {
    let held = fill_up(env, 0)?;
    for (of, _) in TYPES {
        let t = env.mdev_type(of)?;
        assert_eq!(t.available_instances()?, 0, "{of}");
        let uuid = Uuid::random()?;
        make(&uuid);
        assert_refused!(env, uuid.as_str(), t.create(&uuid), ENOSPC, "budget");
        assert!(!t.instances()?.contains(&uuid));
    }
    let count = held.len();
    drop(held);
    // The refused creations have not used any budget.
    assert_eq!(fill_up(env, 0)?.len(), count);
    Ok(())
}

fn creates_race_for_the_last_place(env: &Env) -> Result {
    const THREADS: usize = 8;
    const ROUNDS: usize = 25;
    let held = fill_up(env, 1)?;
    let t = env.mdev_type(SMALL)?;
    for round in 0..ROUNDS {
        let won = race(&t, THREADS, |_| Uuid::random());
        let (won, lost): (Vec<_>, Vec<_>) = won?.into_iter().partition(Result::is_ok);
        let won: Vec<_> = won.into_iter().flatten().collect();
        for e in lost.into_iter().filter_map(Result::err) {
            assert!(e.is(libc::ENOSPC), "round {round}: {e}");
        }
        assert_eq!(won.len(), 1, "round {round}: number of instances created");
        assert_eq!(t.available_instances()?, 0);
        drop(won);
        assert_eq!(
            t.available_instances()?,
            1,
            "round {round}: available instances after the removal"
        );
    }
    drop(held);
    Ok(())
}

fn equal_uuids_race(env: &Env) -> Result {
    let t = env.mdev_type(env.subject())?;
    let before = t.available_instances()?;
    for round in 0..25 {
        let uuid = Uuid::random()?;
        let results = race(&t, 4, |_| Ok(uuid.clone()))?;
        let won = results.iter().filter(|r| r.is_ok()).count();
        assert_eq!(won, 1, "round {round}: number of instances with one UUID");
        for e in results.iter().filter_map(|r| r.as_ref().err()) {
            assert!(e.is(libc::EEXIST), "round {round}: {e}");
        }
        drop(results);
        assert_eq!(t.available_instances()?, before, "round {round}");
    }
    Ok(())
}

/// Creates one instance in each of `threads` threads in parallel.
fn race(
    t: &Type,
    threads: usize,
    uuid: impl Fn(usize) -> vfio_client::Result<Uuid>,
) -> Result<Vec<vfio_client::Result<Instance>>> {
    let uuids = (0..threads)
        .map(uuid)
        .collect::<vfio_client::Result<Vec<_>>>()?;
    let start = Barrier::new(threads);
    Ok(thread::scope(|scope| {
        let create = |uuid| {
            start.wait();
            make(uuid);
            t.create(uuid).map(Instance::from)
        };
        let spawn = |uuid| scope.spawn(move || create(uuid));
        let running: Vec<_> = uuids.iter().map(spawn).collect();
        running
            .into_iter()
            .map(|t| t.join().expect("create does not panic"))
            .collect()
    }))
}

fn remove_takes_a_number(env: &Env) -> Result {
    let instance = env.instance(env.subject())?;
    let remove = instance.path().join("remove");
    assert_errno!(store(&remove, "yes"), EINVAL);
    store(&remove, "0")?;
    assert!(remove.exists(), "writing 0 removed the instance");
    instance.open_alone()?;
    instance.remove()
}

fn removed_twice(env: &Env) -> Result {
    let before = env.mdev_type(env.subject())?.available_instances()?;
    let instance = env.instance(env.subject())?;
    let path = instance.path().join("remove");
    // Open the file before the removal and write to it afterwards.
    let mut late = OpenOptions::new().write(true).open(&path)?;
    instance.remove()?;
    assert_errno!(late.write(b"1"), ENODEV);
    assert_errno!(store(&path, "1"), ENOENT);
    assert_eq!(env.mdev_type(env.subject())?.available_instances()?, before);

    // If several threads remove an instance, it is removed once.
    let instance = env.instance(env.subject())?;
    let path = instance.path().join("remove");
    let removed = Mutex::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                if store(&path, "1").is_ok() {
                    *removed.lock().unwrap() += 1;
                }
            });
        }
    });
    // The mdev core lets later writes succeed or fail with ENODEV.
    assert!(*removed.lock().unwrap() >= 1);
    assert_errno!(fs::metadata(&path), ENOENT);
    assert_eq!(env.mdev_type(env.subject())?.available_instances()?, before);
    Ok(())
}

fn sixty_four_instances(env: &Env) -> Result {
    const COUNT: usize = 64;
    let before = env.mdev_type(SMALL)?.available_instances()?;
    let mut guests = Vec::new();
    for _ in 0..COUNT {
        guests.push(env.open(SMALL)?);
    }
    assert_eq!(
        env.mdev_type(SMALL)?.available_instances()?,
        before - COUNT as u32
    );
    // Each instance has separate registers and memory.
    let memory = |guest: &crate::env::Guest| guest.region(mdma::regs::BAR_MEMORY);
    let scratch = mdma::regs::Reg::Scratch.offset();
    for (guest, n) in guests.iter().zip(1u64..) {
        guest.device.config()?.enable()?;
        guest
            .region(mdma::regs::BAR_REGISTERS)?
            .write_u64(scratch, n)?;
        memory(guest)?.write_u64(n * 4096, !n)?;
    }
    for (guest, n) in guests.iter().zip(1u64..) {
        let found = guest.region(mdma::regs::BAR_REGISTERS)?.read_u64(scratch)?;
        assert_eq!(found, n, "SCRATCH of instance {n}");
        for page in 1..=COUNT as u64 {
            let expected = if page == n { !n } else { 0 };
            assert_eq!(
                memory(guest)?.read_u64(page * 4096)?,
                expected,
                "instance {n} page {page}"
            );
        }
    }
    drop(guests);
    assert_eq!(env.mdev_type(SMALL)?.available_instances()?, before);
    Ok(())
}

/// Unregistering the parent and creating an instance exclude each other. The unload removes the instances created
/// before.
fn creates_race_with_unloading(env: &Env) -> Result {
    env.module.path()?;
    let create = type_dir(env, env.subject())?.join("create");
    let mut created = 0;
    for round in 0..20 {
        let start = Barrier::new(3);
        let done = Mutex::new(0);
        let unloaded = thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..10 {
                        let uuid = Uuid::random().expect("uuid");
                        make(&uuid);
                        // Any errno is fine, because the directory may disappear.
                        if store(&create, uuid.as_str()).is_ok() {
                            *done.lock().unwrap() += 1;
                        }
                    }
                });
            }
            start.wait();
            env.module.unload()
        });
        created += *done.lock().unwrap();
        unloaded?;
        assert!(!env.module.is_loaded(), "round {round}");
        assert!(
            env.own_instances()?.is_empty(),
            "round {round}: instances without a parent"
        );
        env.module.load()?;
    }
    note!("created {created} instances during 20 unloads");
    Ok(())
}
