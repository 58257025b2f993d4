// SPDX-License-Identifier: GPL-2.0

//! Open, close, removal and unload in different orders, and leaks.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{mpsc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use mdma::regs::{self, Reg};
use vfio_client::v1::State;
use vfio_client::{Container, EventFd};

use crate::env::debugfs;
use crate::env::meminfo::Meminfo;
use crate::env::module::Loaded;
use crate::env::{Env, Guest, Instance, SMALL};
use crate::fixture::bytes::all_are;
use crate::fixture::child::{Child, Role};
use crate::fixture::{self, Fixture, MdmaFixture};
use crate::harness::check::{wait_for, PATIENCE, SILENCE};
use crate::harness::result::Result;
use crate::{assert_errno, fail, note, tests};

tests! { "lifecycle":
    opened_and_closed_100_times [] needs [Mdma],
    opened_and_closed_with_state [],
    closed_in_the_middle_of_a_job [] needs [Mdma],
    p08_running_at_every_open ["P8"],
    interrupted_load_is_reset_by_the_close [],
    unload_is_refused_while_open [],
    debugfs_held_open_over_unload [],
    mapping_keeps_the_device_open [] needs [Mdma],
    unload_removes_instances [],
    removal_waits_for_the_close [],
    unbound [],
    attributes_are_read_while_instances_come_and_go [],
    killed_while_doing_dma [] needs [Mdma],
    killed_while_saving [],
    killed_while_resuming [],
    opened_and_removed_at_once [],
    nothing_is_left_after_80_loads [] needs [Mdma],
}

fn opened_and_closed_100_times(env: &Env) -> Result {
    let mut instance = env.instance(SMALL)?;
    for n in 0..100 {
        let guest = Guest::open(instance)?;
        let fixture = MdmaFixture::of(guest)?;
        assert_eq!(fixture.mdma.get(Reg::Scratch)?, 0);
        fixture.mdma.set(Reg::Scratch, n + 1)?;
        let mut queue = fixture.queue(2)?;
        fixture::run_jobs(&mut queue, &[mdma::job::fill(fixture::device(n * 8), n, 8)])?;
        assert_eq!(fixture.mdma.get(Reg::JobsDone)?, 1);
        drop(queue);
        instance = fixture.close();
    }
    Ok(())
}

fn opened_and_closed_with_state(env: &Env) -> Result {
    let mut instance = env.instance(env.subject())?;
    for n in 1..100 {
        let fixture = Fixture::of(Guest::open(instance)?)?;
        fixture.expect_no_mark("at open");
        assert!(all_are(&fixture.read_pages(0..1)?, 0), "at open {n}");
        fixture.write_pages([0], n)?;
        instance = fixture.close();
    }
    Ok(())
}

fn closed_in_the_middle_of_a_job(env: &Env) -> Result {
    const IOVA: u64 = 0x10_0000;
    const BYTES: usize = 4 << 20;
    let mut instance = env.instance(SMALL)?;
    for _ in 0..10 {
        let fixture = MdmaFixture::of(Guest::open(instance)?)?;
        // Close the device first and keep the container and its memory.
        let container = fixture.container.clone();
        let buffer = fixture.buffer(IOVA, BYTES)?;
        let mut queue = fixture.queue(4)?;
        fixture.mdma.set_throttle(20_000)?;
        let before = fixture.mdma.get(Reg::BytesDone)?;
        queue.submit(&mdma::job::fill(fixture::guest(IOVA), !0, BYTES as u64))?;
        fixture::wait_register(&fixture.mdma, Reg::BytesDone, "the job", |v| v > before)?;
        drop(queue);
        instance = fixture.close();
        let count = || buffer.to_vec(0, BYTES).iter().filter(|b| **b != 0).count();
        let written = count();
        assert!(written < BYTES, "the job finished before the close");
        thread::sleep(SILENCE / 4);
        assert_eq!(count(), written, "DMA after the close");
        drop((buffer, container));
    }
    Ok(())
}

fn p08_running_at_every_open(env: &Env) -> Result {
    let mut instance = env.instance(env.subject())?;
    for left_in in crate::fixture::every_state::STATES {
        let fixture = Fixture::of(Guest::open(instance)?)?;
        assert_eq!(fixture.state()?, State::RUNNING, "at open");
        match left_in {
            State::ERROR => {
                fixture.go(&[State::RESUMING])?;
                assert!(fixture.migration.write_state(State::RUNNING).is_err());
            }
            State::STOP_AND_COPY => fixture.go(&[State::PRE_COPY, left_in])?,
            _ => fixture.go(&[left_in])?,
        }
        assert_eq!(fixture.state()?, left_in);
        instance = fixture.close();
        let fixture = Fixture::of(Guest::open(instance)?)?;
        assert_eq!(
            fixture.state()?,
            State::RUNNING,
            "after a close in {left_in}"
        );
        fixture.usable()?;
        instance = fixture.close();
    }
    Ok(())
}

fn interrupted_load_is_reset_by_the_close(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let fresh = fixture.snapshot()?;
    fixture.write_pages(0..256, 1)?;
    let stream = fixture.save()?;
    fixture.go(&[State::RUNNING])?;
    fixture.set_mark(9)?;
    fixture.go(&[State::STOP, State::RESUMING])?;
    fixture.feed(&stream[..stream.len() / 2], fixture.section())?;
    let fixture = Fixture::of(Guest::open(fixture.close())?)?;
    fixture
        .snapshot()?
        .expect(&fresh, "after an incomplete load and a close");
    Ok(())
}

fn unload_is_refused_while_open(env: &Env) -> Result {
    env.module.path()?;
    let fixture = Fixture::new(env)?;
    let users = env.module.refcnt()?;
    assert!(users > 0);
    assert_errno!(env.module.unload(), EAGAIN, "a device is open");
    // The refused unload has changed nothing.
    assert_eq!(env.module.refcnt()?, users);
    fixture.usable()?;
    let second = fixture.device.group().device(fixture.uuid())?;
    let instance = fixture.close();
    assert_errno!(
        env.module.unload(),
        EAGAIN,
        "one of two descriptors is open"
    );
    drop(second);
    wait_for("the module to have no users", || {
        Ok(env.module.refcnt()? == 0)
    })?;
    env.module.unload()?;
    instance.forget();
    env.module.load()
}

/// A debugfs file without an owner does not hold a module reference. Its close then calls into the unloaded module, and
/// the kernel oopses.
fn debugfs_held_open_over_unload(env: &Env) -> Result {
    env.module.path()?;
    let _loaded = Loaded(&env.module);
    let instance = env.instance(env.subject())?;
    let directory = Path::new("/sys/kernel/debug")
        .join(env.module.name())
        .join(instance.uuid.as_str());
    let files = debugfs::files(&directory)?;
    assert!(!files.is_empty(), "{} is empty", directory.display());
    drop(instance);
    for name in files.values() {
        let name = name.strip_prefix(&directory)?;
        note!("{}", name.display());
        let instance = env.instance(env.subject())?;
        let path = Path::new("/sys/kernel/debug")
            .join(env.module.name())
            .join(instance.uuid.as_str());
        let mut file = fs::File::open(path.join(name))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        assert!(!text.is_empty(), "{} is empty", path.display());
        instance.remove()?;
        let unloaded = env.module.unload();
        if unloaded.is_ok() {
            // The last close would oops, so another process keeps the file open.
            Command::new("sleep")
                .arg("1000000")
                .stdin(file)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            fail!("the module was unloaded while a debugfs file is open");
        }
        assert_errno!(unloaded, EAGAIN, "a debugfs file is open");
        // The removed instance has no data to read.
        assert_errno!(file.read(&mut [0; 64]), EIO, "the instance is gone");
        drop(file);
        env.module.unload()?;
        env.module.load()?;
    }
    Ok(())
}

fn mapping_keeps_the_device_open(env: &Env) -> Result {
    env.module.path()?;
    let fixture = MdmaFixture::new(env)?;
    let mapping = fixture.mdma.map_memory()?;
    mapping.write(0, b"here");
    let instance = fixture.close();
    assert_eq!(mapping.to_vec(0, 4), b"here");
    mapping.write(8 << 20, b"there");
    assert_errno!(env.module.unload(), EAGAIN, "a mapping is in use");
    drop(mapping);
    let guest = Guest::open(instance)?;
    let mut there = [0xee; 5];
    guest.region(regs::BAR_MEMORY)?.read(8 << 20, &mut there)?;
    assert_eq!(there, [0; 5], "device memory after the last unmap");
    Ok(())
}

fn unload_removes_instances(env: &Env) -> Result {
    env.module.path()?;
    let available = env.mdev_type(env.subject())?.available_instances()?;
    let mut instances = Vec::new();
    for n in 0..8u8 {
        let fixture = Fixture::new(env)?;
        // Use half of the instances.
        if n % 2 == 0 {
            fixture.write_pages(0..16, n)?;
        }
        instances.push(fixture.close());
    }
    env.module.unload()?;
    assert!(!env.module.is_loaded());
    assert!(env.own_instances()?.is_empty());
    for instance in instances {
        instance.forget();
    }
    env.module.load()?;
    assert_eq!(
        env.mdev_type(env.subject())?.available_instances()?,
        available
    );
    Ok(())
}

fn removal_waits_for_the_close(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let mark = env.kmsg.mark();
    let instance = fixture.instance.again();
    let (done, removed) = mpsc::channel();
    let remover = thread::spawn(move || {
        let _ = done.send(instance.remove());
    });
    // No eventfd is set for the request, so the driver logs a line.
    wait_for("the log line about the removal", || {
        let lines = env.kmsg.since(mark);
        Ok(lines
            .iter()
            .any(|l| l.text.contains(fixture.uuid()) && l.text.contains("remove")))
    })?;
    fixture.usable()?;
    assert!(
        removed.try_recv().is_err(),
        "the device was removed while open"
    );
    let closed = fixture.close();
    removed.recv_timeout(PATIENCE)??;
    remover.join().expect("the remover does not panic");
    assert_errno!(std::fs::metadata(closed.path()), ENOENT);
    closed.forget();
    Ok(())
}

/// The attributes of an instance use the driver's data, so they go with it. The mdev bus binds a device only once.
fn unbound(env: &Env) -> Result {
    const FILES: [&str; 4] = [
        "keep_state",
        "migration_abi",
        "migration_version",
        "payload_checksums",
    ];
    let available = || -> Result<u32> { Ok(env.mdev_type(env.subject())?.available_instances()?) };
    let before = available()?;
    for _ in 0..3 {
        let instance = env.instance(env.subject())?;
        assert!(instance.driver().is_some());
        let mut open = Vec::new();
        for file in FILES {
            let path = instance.path().join(file);
            assert!(!std::fs::read(&path)?.is_empty(), "{file}");
            open.push(std::fs::File::open(&path)?);
        }
        instance.unbind()?;
        assert_eq!(instance.driver(), None);
        for (file, mut held) in FILES.into_iter().zip(open) {
            let path = instance.path().join(file);
            assert_errno!(std::fs::read(&path), ENOENT, "{file}");
            assert_errno!(held.read(&mut [0; 64]), ENODEV, "{file}");
        }
        assert_eq!(available()?, before);
    }
    Fixture::new(env)?.usable()
}

fn attributes_are_read_while_instances_come_and_go(env: &Env) -> Result {
    let ended = AtomicBool::new(false);
    let path = Mutex::new(None::<PathBuf>);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0_u64;
            while !ended.load(Relaxed) {
                let Some(path) = path.lock().expect("no panic").clone() else {
                    thread::yield_now();
                    continue;
                };
                for file in [
                    "migration_abi",
                    "migration_version",
                    "keep_state",
                    "payload_checksums",
                ] {
                    reads += u64::from(std::fs::read(path.join(file)).is_ok());
                }
            }
            reads
        });
        let created = (0..30).try_for_each(|_| {
            let instance = env.instance(env.subject())?;
            *path.lock().expect("no panic") = Some(instance.path().to_owned());
            instance.migration_version()?;
            Ok(())
        });
        ended.store(true, Relaxed);
        let reads = reader.join().expect("no panic");
        note!("{reads} reads");
        created
    })
}

/// Kills a working user after a random delay, many times.
fn killed(env: &Env, role: Role) -> Result {
    let power_on = MdmaFixture::new(env)?.registers()?;
    let pinned = Meminfo::now()?.pinned();
    let mut instance = env.instance(SMALL)?;
    note!("seed {}", env.limits.seed);
    let mut rng = fastrand::Rng::with_seed(env.limits.seed);
    for round in 0..env.limits.kills {
        let child = Child::start(role, &instance)?;
        thread::sleep(Duration::from_micros(rng.u64(..30_000)));
        assert!(
            Guest::open_of(&instance).is_err(),
            "opened the device while another user has it"
        );
        child.kill()?;
        // If type1 is copying, it holds the memory of the dead process, whose mappings keep the device open until the
        // copy has ended.
        wait_for("the device to be closed", || {
            match Guest::open_of(&instance) {
                Ok(_) => Ok(true),
                Err(e) if e.is(libc::EBUSY) => Ok(false),
                Err(e) => Err(e.into()),
            }
        })?;
        wait_for("the pages to be unpinned", || {
            Ok(Meminfo::now()?.pinned() == pinned)
        })?;
        let fixture = MdmaFixture::of(Guest::open(instance)?)?;
        assert_eq!(fixture.state()?, State::RUNNING, "round {round}");
        assert_eq!(fixture.registers()?.diff(&power_on), [], "round {round}");
        let memory = fixture.read_memory(0, 64 << 10)?;
        assert!(all_are(&memory, 0), "round {round}");
        let buffer = fixture.buffer(0x10_0000, 65536)?;
        let mut queue = fixture.queue(3)?;
        let fill = mdma::job::fill(fixture::guest(0x10_0000), !0, 65536);
        fixture::run_jobs(&mut queue, &[fill])?;
        assert!(all_are(&buffer.to_vec(0, 65536), 0xff), "round {round}");
        drop((queue, buffer));
        instance = fixture.close();
    }
    Ok(())
}

/// Kills a user of a session after a random delay, many times.
fn killed_in_a_session(env: &Env, role: Role) -> Result {
    let power_on = Fixture::new(env)?.snapshot()?;
    let mut instance = env.instance(env.subject())?;
    note!("seed {}", env.limits.seed);
    let mut rng = fastrand::Rng::with_seed(env.limits.seed);
    for round in 0..env.limits.kills {
        let child = Child::start(role, &instance)?;
        thread::sleep(Duration::from_micros(rng.u64(..30_000)));
        assert!(
            Guest::open_of(&instance).is_err(),
            "opened the device while another user has it"
        );
        child.kill()?;
        wait_for("the device to be closed", || {
            match Guest::open_of(&instance) {
                Ok(_) => Ok(true),
                Err(e) if e.is(libc::EBUSY) => Ok(false),
                Err(e) => Err(e.into()),
            }
        })?;
        let fixture = Fixture::of(Guest::open(instance)?)?;
        assert_eq!(fixture.state()?, State::RUNNING, "round {round}");
        fixture
            .snapshot()?
            .expect(&power_on, &format!("round {round}"));
        fixture.usable()?;
        instance = fixture.close();
    }
    Ok(())
}

fn killed_while_doing_dma(env: &Env) -> Result {
    killed(env, Role::Dma)
}

fn killed_while_saving(env: &Env) -> Result {
    killed_in_a_session(env, Role::Saving)
}

fn killed_while_resuming(env: &Env) -> Result {
    killed_in_a_session(env, Role::Resuming)
}

fn opened_and_removed_at_once(env: &Env) -> Result {
    let mut opened = 0;
    for _ in 0..50 {
        let instance = env.instance(env.subject())?;
        let group = instance.iommu_group()?;
        let uuid = instance.uuid.clone();
        thread::scope(|scope| -> Result {
            let remover = scope.spawn(|| instance.again().remove());
            let container = Container::open()?;
            // The group or the device may disappear at any point.
            if let Ok(group) = vfio_client::Group::open(group, &container) {
                if let Ok(device) = group.device(uuid.as_str()) {
                    opened += 1;
                    device.migration_v1()?.map(|m| m.state()).transpose()?;
                }
            }
            drop(container);
            Ok(remover.join().expect("no panic")?)
        })?;
        instance.forget();
    }
    note!("{opened} of 50 opens preceded the removal");
    Ok(())
}

/// Uses the device in a round: makes each kind of allocation.
fn use_the_device(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(0x10_0000, 1 << 20)?;
    let events = [EventFd::new()?, EventFd::new()?];
    let msix = fixture.device.irq(crate::irq::msi::MSIX)?;
    msix.set_eventfds(0, &[Some(&events[0]), Some(&events[1])])?;
    fixture.mdma.set_interrupts(regs::INT_ALL)?;
    let memory = fixture.mdma.map_memory()?;
    memory.fill(0, 1 << 20, 0x11);
    let mut queue = fixture.queue(4)?;
    fixture::run_jobs(
        &mut queue,
        &[
            mdma::job::copy(fixture::device(0), fixture::guest(0x10_0000), 1 << 20).interrupt(),
            mdma::job::copy(fixture::guest(0x10_0000), fixture::device(2 << 20), 1 << 20),
        ],
    )?;
    assert_eq!(buffer.to_vec(0, 16), [0x11; 16]);
    fixture.go(&[State::PRE_COPY])?;
    let stream = {
        let mut stream = fixture.save_pending()?.concat();
        fixture.go(&[State::STOP_AND_COPY])?;
        stream.extend(fixture.save_pending()?.concat());
        fixture.go(&[State::STOP])?;
        stream
    };
    drop((memory, queue, buffer, msix));
    let other = MdmaFixture::new(env)?;
    other.load(&stream)?;
    assert_eq!(other.read_memory(2 << 20, 16)?, [0x11; 16]);
    // One instance is removed now, the other at the unload. The refused write adds a log line.
    assert!(other.migration.write_state(State(7)).is_err());
    let left: Instance = other.close();
    drop(fixture);
    left.forget();
    Ok(())
}

/// Rounds before the first snapshot. They fill caches that are never freed.
const WARM_UP: u32 = 10;
/// Snapshots after that, and rounds between two of them. A page that each load leaves exceeds [`MARGIN_KIB`], and an
/// object that each use of the device leaves grows in all of the snapshots.
const LOOKS: u32 = 4;
const ROUNDS: u32 = 20;
/// One round in this many uses the device.
const USE_EVERY: u32 = 4;

/// Total growth above this is a leak, even if it happens in one round: 64 pages in 80 rounds.
const MARGIN_KIB: i64 = 256;

/// A leak grows between any two snapshots, by at least one object per use. Caches grow and shrink.
fn nothing_is_left_after_80_loads(env: &Env) -> Result {
    env.module.path()?;
    let rounds = |count: u32| -> Result<Meminfo> {
        let (mut loads, mut uses) = (Duration::ZERO, Duration::ZERO);
        for round in 0..count {
            let start = Instant::now();
            env.module.load()?;
            if round % USE_EVERY == 0 {
                let start = Instant::now();
                use_the_device(env)?;
                uses += start.elapsed();
            }
            env.module.unload()?;
            loads += start.elapsed();
        }
        let look = Meminfo::settled()?;
        note!(
            "{count} rounds: {loads:.1?}, using the device {uses:.1?}; {} KiB in pages without a name",
            look.nameless_kib()
        );
        Ok(look)
    };
    env.module.unload()?;
    let _loaded = Loaded(&env.module);

    let mut looks = vec![rounds(WARM_UP)?];
    for _ in 0..LOOKS {
        looks.push(rounds(ROUNDS)?);
    }
    let (first, last) = (&looks[0], &looks[LOOKS as usize]);
    assert_eq!(
        last.pinned(),
        first.pinned(),
        "pinned pages were not unpinned"
    );
    let mut leaks = Vec::new();
    for (name, growth) in Meminfo::total_growth(first, last) {
        note!("{name}: {growth:+} KiB in total");
        if growth > MARGIN_KIB {
            leaks.push(format!("{name}: {growth} KiB in total"));
        }
    }
    let uses = i64::from(ROUNDS / USE_EVERY);
    leaks.extend(Meminfo::steady_growth(&looks, uses));
    assert_eq!(
        leaks,
        Vec::<String>::new(),
        "after {} rounds",
        LOOKS * ROUNDS
    );
    Ok(())
}
