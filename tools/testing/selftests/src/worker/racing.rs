// SPDX-License-Identifier: GPL-2.0

//! Two and more threads on one device. Whatever they do to each other, every call ends, with success or with an errno
//! that the call may give, and afterwards the device is as good as new. `--iterations N` says how often.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use mdma::job;
use mdma::regs::{self, Reg};
use vfio_client::uapi::VFIO_PCI_MSIX_IRQ_INDEX;
use vfio_client::v1::{offset, State};
use vfio_client::{Action, EventFd};

use crate::env::{Guest, Lab, SMALL};
use crate::fixture::{run_jobs, Scene, PAGE, QUEUE};
use crate::harness::result::Outcome;
use crate::{note, tests};

tests! { "racing":
    every_two_actions [],
    all_actions_at_once [],
    states_and_doorbells ["P9"],
    sessions_by_two_threads [],
    loads_by_two_threads ["P26"],
    two_descriptors_of_one_device [],
    opening_and_closing [],
}

/// Something that a thread does to a device, once. It may fail with an errno; it must not hang, and must not break the
/// device.
type Do = fn(&Scene, &mut fastrand::Rng) -> Outcome;

const ACTIONS: [(&str, Do); 10] = [
    ("header reads", header_reads),
    ("state changes", state_changes),
    ("saving", saving),
    ("loading", loading),
    ("resets", resets),
    ("memory calls", memory_calls),
    ("memory mapping", memory_mapping),
    ("window mapping", window_mapping),
    ("the queue", the_queue),
    ("interrupts and configuration", interrupts),
];

fn header_reads(scene: &Scene, rng: &mut fastrand::Rng) -> Outcome {
    let region = scene.migration.region();
    let mut out = vec![0; rng.usize(0..40)];
    let _ = region.pread(rng.u64(0..41), &mut out);
    let _ = region.pread(scene.data_offset() + rng.u64(0..5000), &mut out);
    let _ = region.read_u64(offset::PENDING_BYTES);
    Ok(())
}

fn state_changes(scene: &Scene, rng: &mut fastrand::Rng) -> Outcome {
    let _ = scene.migration.write_state(State(rng.u32(0..9)));
    let state = scene.state()?.0;
    assert!(
        [0, 1, 2, 3, 4, 6].contains(&state),
        "device_state reads {state:#b}"
    );
    Ok(())
}

fn saving(scene: &Scene, rng: &mut fastrand::Rng) -> Outcome {
    let m = &scene.migration;
    let _ = m.write_state(
        *rng.choice([State::PRE_COPY, State::STOP_AND_COPY].iter())
            .expect("two"),
    );
    for _ in 0..3 {
        m.pending_bytes()?;
        // Another thread may stage and consume in between; sizes stay inside the section.
        let _ = m.data_offset();
        let size = m.data_size()?;
        assert!(size <= scene.section() as u64, "data_size {size}");
    }
    Ok(())
}

fn loading(scene: &Scene, rng: &mut fastrand::Rng) -> Outcome {
    let m = &scene.migration;
    let _ = m.write_state(State::RESUMING);
    let bytes = crate::fixture::memory::random_bytes(rng, 200);
    let _ = m.write_data(scene.data_offset(), &bytes);
    let _ = m.write_data_size(rng.u64(0..300));
    Ok(())
}

fn resets(scene: &Scene, _: &mut fastrand::Rng) -> Outcome {
    scene.device.reset()?;
    let _ = scene.state()?;
    Ok(())
}

fn memory_calls(scene: &Scene, rng: &mut fastrand::Rng) -> Outcome {
    let at = rng.u64(0..scene.mdma.memory_size() - 20_000);
    let len = rng.usize(1..20_000);
    if rng.bool() {
        scene.write_memory(at, &vec![rng.u8(..); len])
    } else {
        scene.read_memory(at, len).map(drop)
    }
}

fn memory_mapping(scene: &Scene, rng: &mut fastrand::Rng) -> Outcome {
    let mapping = scene.mdma.map_memory()?;
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

fn window_mapping(scene: &Scene, rng: &mut fastrand::Rng) -> Outcome {
    let region = scene.migration.region();
    let Some(area) = region.info().areas().first().copied() else {
        return Ok(());
    };
    let mapping = region.map(area)?;
    for _ in 0..8 {
        mapping.write(rng.usize(0..mapping.len() - 8), &[rng.u8(..); 8]);
    }
    Ok(())
}

fn the_queue(scene: &Scene, rng: &mut fastrand::Rng) -> Outcome {
    let mdma = &scene.mdma;
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

fn interrupts(scene: &Scene, rng: &mut fastrand::Rng) -> Outcome {
    let config = scene.device.config()?;
    config.enable()?;
    config.set_bus_master(rng.bool())?;
    let msix = scene.device.irq(VFIO_PCI_MSIX_IRQ_INDEX)?;
    let event = EventFd::new()?;
    if msix.set_eventfds(0, &[Some(&event)]).is_ok() {
        let _ = msix.set_none(Action::Trigger, 0, 1);
        let _ = msix.disable();
    }
    config.enable()?;
    Ok(())
}

/// A scene with a ring of jobs that the queue action enables.
fn scene(lab: &Lab) -> Outcome<(Scene, vfio_client::DmaBuffer)> {
    let scene = Scene::new(lab)?;
    let memory = scene.buffer(QUEUE, 3 * PAGE as usize)?;
    for n in 0..16u64 {
        let place = mdma::Place::Device(n << 16);
        let job = match n % 2 {
            0 => job::fill(place, n, 100_000),
            _ => job::copy(place, mdma::Place::Guest(QUEUE + 2 * PAGE), 4096),
        };
        memory.write(n as usize * 64, &job.encode());
    }
    Ok((scene, memory))
}

/// After all that, the device is as good as new.
fn usable(scene: &Scene) -> Outcome {
    scene.device.reset()?;
    assert_eq!(scene.state()?, State::RUNNING);
    scene.device.config()?.enable()?;
    let mut queue = scene.queue_at(4 * QUEUE, 4)?;
    run_jobs(&mut queue, &[job::fill(mdma::Place::Device(0), 7, PAGE)])?;
    let bytes = scene.save()?;
    scene.load(&bytes)?;
    assert_eq!(scene.read_memory(0, 8)?, 7u64.to_le_bytes());
    drop(queue);
    Ok(())
}

/// Runs an action of each thread `times` times, all at once.
fn race(lab: &Lab, scene: &Scene, actions: &[(&str, Do)], times: u64) -> Outcome {
    let done = AtomicUsize::new(0);
    thread::scope(|threads| {
        let racers: Vec<_> = (0..)
            .zip(actions)
            .map(|(n, (name, action))| {
                let done = &done;
                let racer = move || -> Outcome {
                    let mut rng = fastrand::Rng::with_seed(lab.effort.seed + n);
                    for _ in 0..times {
                        action(scene, &mut rng)?;
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

fn every_two_actions(lab: &Lab) -> Outcome {
    let (scene, memory) = scene(lab)?;
    let times = lab.effort.iterations / 20;
    for (n, first) in ACTIONS.iter().enumerate() {
        // With itself too.
        for second in &ACTIONS[n..] {
            if let Err(e) = race(lab, &scene, &[*first, *second], times) {
                crate::fail!("{} and {}: {e}", first.0, second.0);
            }
        }
        usable(&scene)?;
    }
    drop(memory);
    Ok(())
}

fn all_actions_at_once(lab: &Lab) -> Outcome {
    let (scene, memory) = scene(lab)?;
    race(lab, &scene, &ACTIONS, lab.effort.iterations / 4)?;
    usable(&scene)?;
    drop(memory);
    Ok(())
}

fn states_and_doorbells(lab: &Lab) -> Outcome {
    let (scene, memory) = scene(lab)?;
    let racers: [(&str, Do); 3] = [
        ("the queue", the_queue),
        ("stops", |scene, rng| {
            // In these states the device must not write guest memory; look at it for a moment.
            let to = *rng
                .choice([State::STOP, State::STOP_AND_COPY].iter())
                .expect("two");
            scene.go(&[to])?;
            let registers = scene.mdma.get(Reg::BytesDone)?;
            thread::yield_now();
            assert_eq!(
                scene.mdma.get(Reg::BytesDone)?,
                registers,
                "it works while stopped"
            );
            scene.go(&[State::RUNNING])
        }),
        ("memory mapping", memory_mapping),
    ];
    race(lab, &scene, &racers, lab.effort.iterations)?;
    usable(&scene)?;
    drop(memory);
    Ok(())
}

fn sessions_by_two_threads(lab: &Lab) -> Outcome {
    let scene = Scene::new(lab)?;
    scene.write_memory(0, &[1; 1 << 20])?;
    let racers: [(&str, Do); 4] = [
        ("saving", saving),
        ("saving", saving),
        ("memory calls", memory_calls),
        ("ends", |scene, rng| {
            if rng.u8(0..4) == 0 {
                let _ = scene.migration.write_state(State::RUNNING);
            }
            Ok(())
        }),
    ];
    race(lab, &scene, &racers, lab.effort.iterations / 4)?;
    usable(&scene)
}

fn loads_by_two_threads(lab: &Lab) -> Outcome {
    let scene = Scene::new(lab)?;
    let racers: [(&str, Do); 3] = [
        ("loading", loading),
        ("loading", loading),
        ("ends", |scene, rng| {
            let _ = scene.migration.write_state(State::RUNNING);
            if rng.bool() {
                scene.device.reset()?;
            }
            Ok(())
        }),
    ];
    race(lab, &scene, &racers, lab.effort.iterations / 4)?;
    usable(&scene)
}

fn two_descriptors_of_one_device(lab: &Lab) -> Outcome {
    let scene = Scene::new(lab)?;
    let second = scene.device.group().device(scene.device.name())?;
    let migration = second.migration_v1()?.expect("the same device");
    // One state, whoever looks.
    scene.go(&[State::PRE_COPY])?;
    assert_eq!(migration.state()?, State::PRE_COPY);
    migration.set_state(State::STOP)?;
    assert_eq!(scene.state()?, State::STOP);
    // Closing one of them ends nothing.
    drop((migration, second));
    assert_eq!(scene.state()?, State::STOP);
    scene.go(&[State::RUNNING])?;
    // Opening and closing beside one that works.
    let racers: [(&str, Do); 2] = [
        ("another descriptor", |scene, _| {
            let second = scene.device.group().device(scene.device.name())?;
            let _ = second.migration_v1()?.map(|m| m.state());
            Ok(())
        }),
        ("memory calls", memory_calls),
    ];
    race(lab, &scene, &racers, lab.effort.iterations / 4)?;
    usable(&scene)
}

fn opening_and_closing(lab: &Lab) -> Outcome {
    // One thread each: what they share is the driver.
    let times = lab.effort.iterations / 50;
    thread::scope(|threads| -> Outcome {
        let racers: Vec<_> = (0..3)
            .map(|n| {
                threads.spawn(move || -> Outcome {
                    let mut rng = fastrand::Rng::with_seed(lab.effort.seed + n);
                    let mut instance = lab.instance(SMALL)?;
                    for _ in 0..times {
                        let scene = Scene::of(Guest::open(instance)?)?;
                        let mut queue = scene.queue(3)?;
                        scene.mdma.set_throttle(500)?;
                        queue.submit(&job::fill(mdma::Place::Device(0), 1, 1 << 20))?;
                        // Closed in the middle of whatever it is.
                        let (_, action) = rng.choice(ACTIONS.iter()).expect("some");
                        action(&scene, &mut rng)?;
                        drop(queue);
                        instance = scene.close();
                    }
                    let scene = Scene::of(Guest::open(instance)?)?;
                    usable(&scene)
                })
            })
            .collect();
        for racer in racers {
            racer.join().expect("an opening thread")?;
        }
        Ok(())
    })?;
    note!("3 threads opened {times} times");
    Ok(())
}
