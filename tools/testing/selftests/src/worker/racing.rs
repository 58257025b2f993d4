// SPDX-License-Identifier: GPL-2.0

//! Two or more threads on one device. Each call succeeds or fails with an expected errno, and the device works after a
//! reset. `--iterations N` sets the number of rounds.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use mdma::job;
use mdma::regs::{self, Reg};
use vfio_client::v1::{offset, State};
use vfio_client::{v2, Action, EventFd};

use crate::env::{Env, Guest, SMALL};
use crate::fixture::{run_jobs, Fixture, MdmaFixture, PAGE, QUEUE};
use crate::harness::result::Result;
use crate::irq::set_irqs::own;
use crate::{note, tests};

tests! { "racing":
    every_two_actions [],
    all_actions_at_once [],
    the_queue_and_every_action [] needs [Mdma],
    states_and_doorbells ["P9"] needs [Mdma],
    sessions_by_two_threads [],
    loads_by_two_threads ["P26"],
    two_descriptors_of_one_device [],
    opening_and_closing [],
    opening_and_closing_in_a_job [] needs [Mdma],
}

/// An action of a thread on a device. It may fail with an errno, but must not hang or break the device.
type Do<F = Fixture> = fn(&F, &mut fastrand::Rng) -> Result;

const ACTIONS: [(&str, Do); 11] = [
    ("header reads", header_reads),
    ("state changes", state_changes),
    ("state changes by v2", state_changes_by_v2),
    ("saving", saving),
    ("loading", loading),
    ("resets", resets),
    ("memory calls", memory_calls),
    ("memory mapping", memory_mapping),
    ("window mapping", window_mapping),
    ("registers", registers),
    ("interrupts and configuration", interrupts),
];

fn header_reads(fixture: &Fixture, rng: &mut fastrand::Rng) -> Result {
    let region = fixture.migration.region();
    let mut out = vec![0; rng.usize(0..40)];
    let _ = region.pread(rng.u64(0..41), &mut out);
    let _ = region.pread(fixture.data_offset() + rng.u64(0..5000), &mut out);
    let _ = region.read_u64(offset::PENDING_BYTES);
    Ok(())
}

fn state_changes(fixture: &Fixture, rng: &mut fastrand::Rng) -> Result {
    let _ = fixture.migration.write_state(State(rng.u32(0..9)));
    let state = fixture.state()?.0;
    assert!(
        [0, 1, 2, 3, 4, 6].contains(&state),
        "device_state reads {state:#b}"
    );
    Ok(())
}

fn saving(fixture: &Fixture, rng: &mut fastrand::Rng) -> Result {
    let m = &fixture.migration;
    let _ = m.write_state(
        *rng.choice([State::PRE_COPY, State::STOP_AND_COPY].iter())
            .expect("two"),
    );
    for _ in 0..3 {
        m.pending_bytes()?;
        // Another thread may stage and consume buffers in between, but no size exceeds the section.
        let _ = m.data_offset();
        let size = m.data_size()?;
        assert!(size <= fixture.section() as u64, "data_size {size}");
    }
    Ok(())
}

fn loading(fixture: &Fixture, rng: &mut fastrand::Rng) -> Result {
    let m = &fixture.migration;
    let _ = m.write_state(State::RESUMING);
    let bytes = crate::fixture::bytes::random_bytes(rng, 200);
    let _ = m.write_data(fixture.data_offset(), &bytes);
    let _ = m.write_data_size(rng.u64(0..300));
    Ok(())
}

fn resets(fixture: &Fixture, _: &mut fastrand::Rng) -> Result {
    fixture.device.reset()?;
    let _ = fixture.state()?;
    Ok(())
}

fn memory_calls(fixture: &Fixture, rng: &mut fastrand::Rng) -> Result {
    if fixture.memory_size() <= 20_000 {
        return Ok(());
    }
    let at = rng.u64(0..fixture.memory_size() - 20_000);
    let len = rng.usize(1..20_000);
    if rng.bool() {
        fixture.write_memory(at, &vec![rng.u8(..); len])
    } else {
        fixture.read_memory(at, len).map(drop)
    }
}

fn memory_mapping(fixture: &Fixture, rng: &mut fastrand::Rng) -> Result {
    if fixture.memory_size() == 0 {
        return Ok(());
    }
    let mapping = fixture.map_memory()?;
    for _ in 0..8 {
        let at = rng.usize(0..mapping.len() - 8);
        if rng.bool() {
            mapping.write(at, &[rng.u8(..); 8]);
        } else {
            mapping.touch(at);
        }
    }
    Ok(())
}

fn window_mapping(fixture: &Fixture, rng: &mut fastrand::Rng) -> Result {
    let region = fixture.migration.region();
    let Some(area) = region.info().areas().first().copied() else {
        return Ok(());
    };
    let mapping = region.map(area)?;
    for _ in 0..8 {
        mapping.write(rng.usize(0..mapping.len() - 8), &[rng.u8(..); 8]);
    }
    Ok(())
}

/// Reads and writes anywhere in the BARs that cannot be mapped, without bus master: random registers may start the device.
fn registers(fixture: &Fixture, rng: &mut fastrand::Rng) -> Result {
    fixture.device.config()?.set_bus_master(false)?;
    for index in 0..6 {
        let region = fixture.region(index)?;
        let info = region.info();
        if info.size == 0 || !info.areas().is_empty() {
            continue;
        }
        for _ in 0..4 {
            let width = *rng.choice(&[1, 2, 4, 8]).expect("some");
            let at = rng.u64(0..info.size) & !(width as u64 - 1);
            if at + width as u64 > info.size {
                continue;
            }
            let mut bytes = rng.u64(..).to_le_bytes();
            // No access inside a BAR fails.
            match rng.bool() {
                true => region.write(at, &bytes[..width])?,
                false => region.read(at, &mut bytes[..width])?,
            }
        }
    }
    Ok(())
}

fn state_changes_by_v2(fixture: &Fixture, rng: &mut fastrand::Rng) -> Result {
    let Some(feature) = fixture.device.migration_v2()? else {
        return Ok(());
    };
    if let Ok(Some(file)) = feature.set_state(v2::State(rng.u32(0..9))) {
        let _ = file.read(&mut [0; 512]);
        let _ = file.write(&[0x5a; 64]);
    }
    assert!(feature.state()?.name().is_some(), "an unknown state");
    Ok(())
}

/// Makes an action of any device one of `mdma`.
macro_rules! of_mdma {
    ($($action:ident),*) => {
        [$((stringify!($action), (|fixture, rng| $action(fixture, rng)) as Do<MdmaFixture>)),*]
    };
}

/// The actions beside which the queue runs.
const BESIDE_THE_QUEUE: [(&str, Do<MdmaFixture>); 9] = of_mdma![
    header_reads,
    state_changes,
    saving,
    loading,
    resets,
    memory_calls,
    memory_mapping,
    window_mapping,
    interrupts
];

fn the_queue(fixture: &MdmaFixture, rng: &mut fastrand::Rng) -> Result {
    let mdma = &fixture.mdma;
    match rng.u8(0..4) {
        0 => {
            let _ = mdma.set(Reg::Control, 0);
            let _ = mdma.set(Reg::RingBase, QUEUE);
            let _ = mdma.set(Reg::RingOrder, 4);
            let _ = mdma.set(Reg::CompletionBase, QUEUE + PAGE);
            let _ = mdma.set(Reg::Control, regs::CONTROL_ENABLE.into());
        }
        1 => {
            mdma.snapshot()?;
        }
        _ => {
            let _ = mdma.set(Reg::Tail, rng.u64(0..16));
        }
    }
    Ok(())
}

fn interrupts(fixture: &Fixture, rng: &mut fastrand::Rng) -> Result {
    let config = fixture.device.config()?;
    config.enable()?;
    config.set_bus_master(rng.bool())?;
    for (index, _) in own(fixture)? {
        let irq = fixture.device.irq(index)?;
        let event = EventFd::new()?;
        if irq.set_eventfds(0, &[Some(&event)]).is_ok() {
            let _ = irq.set_none(Action::Trigger, 0, 1);
            let _ = irq.disable();
        }
    }
    config.enable()?;
    Ok(())
}

/// Returns a fixture with a ring of jobs that the queue action enables.
fn fixture(env: &Env) -> Result<(MdmaFixture, vfio_client::DmaBuffer)> {
    let fixture = MdmaFixture::new(env)?;
    let memory = fixture.buffer(QUEUE, 3 * PAGE as usize)?;
    for n in 0..16u64 {
        let place = mdma::Place::Device(n << 16);
        let job = match n % 2 {
            0 => job::fill(place, n, 100_000),
            _ => job::copy(place, mdma::Place::Guest(QUEUE + 2 * PAGE), 4096),
        };
        memory.write(n as usize * 64, &job.encode());
    }
    Ok((fixture, memory))
}

/// Checks that the device works after a reset.
fn usable(fixture: &MdmaFixture) -> Result {
    fixture.device.reset()?;
    assert_eq!(fixture.state()?, State::RUNNING);
    fixture.device.config()?.enable()?;
    let mut queue = fixture.queue_at(4 * QUEUE, 4)?;
    run_jobs(&mut queue, &[job::fill(mdma::Place::Device(0), 7, PAGE)])?;
    let bytes = fixture.save()?;
    fixture.load(&bytes)?;
    assert_eq!(fixture.read_memory(0, 8)?, 7u64.to_le_bytes());
    drop(queue);
    Ok(())
}

/// Runs one action per thread, `times` times each, in parallel.
fn race<F: Sync>(env: &Env, fixture: &F, actions: &[(&str, Do<F>)], times: u64) -> Result {
    let done = AtomicUsize::new(0);
    thread::scope(|threads| {
        let racers: Vec<_> = (0..)
            .zip(actions)
            .map(|(n, (name, action))| {
                let done = &done;
                let racer = move || -> Result {
                    let mut rng = fastrand::Rng::with_seed(env.limits.seed + n);
                    for _ in 0..times {
                        action(fixture, &mut rng)?;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                };
                (name, threads.spawn(racer))
            })
            .collect();
        for (name, racer) in racers {
            if let Err(e) = racer.join().expect("a racing thread") {
                crate::fail!("{name}: {e}");
            }
        }
        Ok(())
    })?;
    assert_eq!(done.into_inner() as u64, actions.len() as u64 * times);
    Ok(())
}

fn every_two_actions(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let times = env.limits.iterations / 20;
    for (n, first) in ACTIONS.iter().enumerate() {
        // Race each action with itself, too.
        for second in &ACTIONS[n..] {
            if let Err(e) = race(env, &fixture, &[*first, *second], times) {
                crate::fail!("{} and {}: {e}", first.0, second.0);
            }
        }
        fixture.device.reset()?;
        fixture.usable()?;
    }
    Ok(())
}

fn all_actions_at_once(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    race(env, &fixture, &ACTIONS, env.limits.iterations / 4)?;
    fixture.device.reset()?;
    fixture.usable()
}

fn the_queue_and_every_action(env: &Env) -> Result {
    let (fixture, memory) = fixture(env)?;
    let queue: (&str, Do<MdmaFixture>) = ("the queue", the_queue);
    let times = env.limits.iterations / 20;
    race(env, &fixture, &[queue, queue], times)?;
    for action in BESIDE_THE_QUEUE {
        if let Err(e) = race(env, &fixture, &[queue, action], times) {
            crate::fail!("the queue and {}: {e}", action.0);
        }
    }
    usable(&fixture)?;
    let mut all = BESIDE_THE_QUEUE.to_vec();
    all.push(queue);
    race(env, &fixture, &all, env.limits.iterations / 4)?;
    usable(&fixture)?;
    drop(memory);
    Ok(())
}

fn states_and_doorbells(env: &Env) -> Result {
    let (fixture, memory) = fixture(env)?;
    let racers: [(&str, Do<MdmaFixture>); 3] = [
        ("the queue", the_queue),
        ("stops", |fixture, rng| {
            // In these states, the device must not do DMA.
            let to = *rng
                .choice([State::STOP, State::STOP_AND_COPY].iter())
                .expect("two");
            fixture.go(&[to])?;
            let registers = fixture.mdma.get(Reg::BytesDone)?;
            thread::yield_now();
            assert_eq!(
                fixture.mdma.get(Reg::BytesDone)?,
                registers,
                "the device did DMA while stopped"
            );
            fixture.go(&[State::RUNNING])
        }),
        ("memory mapping", |fixture, rng| {
            memory_mapping(fixture, rng)
        }),
    ];
    race(env, &fixture, &racers, env.limits.iterations)?;
    usable(&fixture)?;
    drop(memory);
    Ok(())
}

fn sessions_by_two_threads(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    fixture.write_pages(0..256, 1)?;
    let racers: [(&str, Do); 4] = [
        ("saving", saving),
        ("saving", saving),
        ("memory calls", memory_calls),
        ("ends", |fixture, rng| {
            if rng.u8(0..4) == 0 {
                let _ = fixture.migration.write_state(State::RUNNING);
            }
            Ok(())
        }),
    ];
    race(env, &fixture, &racers, env.limits.iterations / 4)?;
    fixture.device.reset()?;
    fixture.usable()
}

fn loads_by_two_threads(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let racers: [(&str, Do); 3] = [
        ("loading", loading),
        ("loading", loading),
        ("ends", |fixture, rng| {
            let _ = fixture.migration.write_state(State::RUNNING);
            if rng.bool() {
                fixture.device.reset()?;
            }
            Ok(())
        }),
    ];
    race(env, &fixture, &racers, env.limits.iterations / 4)?;
    fixture.device.reset()?;
    fixture.usable()
}

fn two_descriptors_of_one_device(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let second = fixture.device.group().device(fixture.device.name())?;
    let migration = second.migration_v1()?.expect("the same device");
    // Both descriptors show the same state.
    fixture.go(&[State::PRE_COPY])?;
    assert_eq!(migration.state()?, State::PRE_COPY);
    migration.set_state(State::STOP)?;
    assert_eq!(fixture.state()?, State::STOP);
    // Closing one of them does not change the state.
    drop((migration, second));
    assert_eq!(fixture.state()?, State::STOP);
    fixture.go(&[State::RUNNING])?;
    // Open and close one descriptor while the other is in use.
    let racers: [(&str, Do); 2] = [
        ("another descriptor", |fixture, _| {
            let second = fixture.device.group().device(fixture.device.name())?;
            let _ = second.migration_v1()?.map(|m| m.state());
            Ok(())
        }),
        ("memory calls", memory_calls),
    ];
    race(env, &fixture, &racers, env.limits.iterations / 4)?;
    fixture.device.reset()?;
    fixture.usable()
}

fn opening_and_closing_in_a_job(env: &Env) -> Result {
    // One thread per device: the threads share only the driver.
    let times = env.limits.iterations / 50;
    thread::scope(|threads| -> Result {
        let racers: Vec<_> = (0..3)
            .map(|n| {
                threads.spawn(move || -> Result {
                    let mut rng = fastrand::Rng::with_seed(env.limits.seed + n);
                    let mut instance = env.instance(SMALL)?;
                    for _ in 0..times {
                        let fixture = MdmaFixture::of(Guest::open(instance)?)?;
                        let mut queue = fixture.queue(3)?;
                        fixture.mdma.set_throttle(500)?;
                        queue.submit(&job::fill(mdma::Place::Device(0), 1, 1 << 20))?;
                        // Close the device in the middle of a job and a random action.
                        let (_, action) = rng.choice(BESIDE_THE_QUEUE.iter()).expect("some");
                        action(&fixture, &mut rng)?;
                        drop(queue);
                        instance = fixture.close();
                    }
                    let fixture = MdmaFixture::of(Guest::open(instance)?)?;
                    usable(&fixture)
                })
            })
            .collect();
        for racer in racers {
            racer.join().expect("an opening thread")?;
        }
        Ok(())
    })?;
    note!("3 threads opened their devices {times} times");
    Ok(())
}

fn opening_and_closing(env: &Env) -> Result {
    // One thread per device: the threads share only the driver.
    let times = env.limits.iterations / 50;
    thread::scope(|threads| -> Result {
        let racers: Vec<_> = (0..3)
            .map(|n| {
                threads.spawn(move || -> Result {
                    let mut rng = fastrand::Rng::with_seed(env.limits.seed + n);
                    let mut instance = env.instance(env.subject())?;
                    for _ in 0..times {
                        let fixture = Fixture::of(Guest::open(instance)?)?;
                        for _ in 0..3 {
                            let (_, action) = rng.choice(ACTIONS.iter()).expect("some");
                            action(&fixture, &mut rng)?;
                        }
                        instance = fixture.close();
                    }
                    Fixture::of(Guest::open(instance)?)?.usable()
                })
            })
            .collect();
        for racer in racers {
            racer.join().expect("an opening thread")?;
        }
        Ok(())
    })?;
    note!("3 threads opened their devices {times} times");
    Ok(())
}
