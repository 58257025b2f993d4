// SPDX-License-Identifier: GPL-2.0

//! High load: many concurrent migrations, and containers and CPUs that come and go.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use mdma::job;
use vfio_client::v2::State;

use crate::env::pins::Pins;
use crate::env::{Env, Guest, SMALL};
use crate::fixture::v2::MdmaV2;
use crate::fixture::{device, guest, run_jobs, MdmaFixture, PAGE};
use crate::harness::check::wait_for;
use crate::harness::need::ONLINE;
use crate::harness::result::Result;
use crate::{note, tests};

tests! { "load" needs [Mdma]:
    sixty_four_migrate_at_once [],
    processors_go_offline_and_online [] needs [Hotplug],
    containers_come_and_go [],
}

/// The pages of device memory that a migration writes before its start.
const PAGES: [u64; 4] = [0, 1, 63, 4000];

/// Migrates a device with pre-copy, and compares the devices. Calls `meet` when both devices have a session open, and
/// when both have moved all data.
pub(crate) fn migrate(from: &MdmaV2, to: &MdmaV2, n: u64, meet: &dyn Fn()) -> Result {
    from.write_pages(PAGES, n as u8)?;
    let mut queue = from.queue(2)?;
    let source = from.begin(State::PRE_COPY)?;
    let sink = to.begin(State::RESUMING)?;
    meet();
    let mut bytes = Vec::new();
    source.read_available(&mut bytes)?;
    // The engine writes a page in the middle of the save.
    let value = 0x0101_0101_0101_0101 * (n & 0x7f);
    run_jobs(&mut queue, &[job::fill(device(PAGE), !value, PAGE)])?;
    queue.close()?;
    from.to(State::STOP_COPY)?;
    source.read_available(&mut bytes)?;
    sink.write_all(&bytes)?;
    meet();
    to.to(State::RUNNING)?;
    from.to(State::STOP)?;
    assert_eq!(to.registers()?.diff(&from.registers()?), []);
    for page in PAGES {
        let at = page * PAGE;
        let (here, there) = (
            from.read_memory(at, PAGE as usize)?,
            to.read_memory(at, PAGE as usize)?,
        );
        assert!(here == there, "page {page} of device {n} differs");
    }
    assert_eq!(to.read_memory(PAGE, 8)?, (!value).to_le_bytes());
    from.to(State::RUNNING)
}

/// Joins test threads and passes on their errors and panics.
fn join(threads: Vec<thread::ScopedJoinHandle<'_, Result>>) -> Result {
    for thread in threads {
        match thread.join() {
            Ok(outcome) => outcome?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    Ok(())
}

fn sixty_four_migrate_at_once(env: &Env) -> Result {
    const PAIRS: usize = 32;
    let devices = || {
        (0..PAIRS)
            .map(|_| MdmaV2::new(env))
            .collect::<Result<Vec<_>>>()
    };
    let (from, to) = (devices()?, devices()?);
    let barrier = Barrier::new(PAIRS);
    thread::scope(|scope| {
        let threads = from.iter().zip(&to).zip(1..).map(|((from, to), n)| {
            let barrier = &barrier;
            scope.spawn(move || {
                migrate(from, to, n, &|| {
                    barrier.wait();
                })
            })
        });
        join(threads.collect())
    })
}

/// Takes the second CPU online on drop.
struct Processor;

impl Drop for Processor {
    fn drop(&mut self) {
        if let Err(e) = fs::write(ONLINE, "1") {
            crate::harness::report::problem(format!("{ONLINE}: {e}"));
        }
    }
}

fn processors_go_offline_and_online(env: &Env) -> Result {
    const PAIRS: usize = 4;
    let devices = || {
        (0..PAIRS)
            .map(|_| MdmaV2::new(env))
            .collect::<Result<Vec<_>>>()
    };
    let (from, to) = (devices()?, devices()?);
    let rounds = (env.limits.iterations / 50).clamp(2, 40);
    let stop = AtomicBool::new(false);
    let _on = Processor;
    thread::scope(|scope| {
        let toggle = scope.spawn(|| -> Result<u64> {
            let mut times = 0;
            // At least once, however late this thread runs.
            while times == 0 || !stop.load(Ordering::Relaxed) {
                fs::write(ONLINE, "0")?;
                thread::sleep(Duration::from_millis(10));
                fs::write(ONLINE, "1")?;
                thread::sleep(Duration::from_millis(10));
                times += 1;
            }
            Ok(times)
        });
        let threads = from.iter().zip(&to).zip(1..).map(|((from, to), n)| {
            scope.spawn(move || {
                (0..rounds).try_for_each(|round| migrate(from, to, n + round, &|| {}))
            })
        });
        let result = join(threads.collect());
        stop.store(true, Ordering::Relaxed);
        let times = toggle.join().expect("no panic")?;
        note!(
            "took the CPU offline {times} times during {} migrations",
            rounds * PAIRS as u64
        );
        result
    })
}

fn containers_come_and_go(env: &Env) -> Result {
    const THREADS: usize = 4;
    const IOVA: u64 = 0x10_0000;
    const LEN: usize = 256 << 10;
    let before = Pins::now()?.held();
    // Pins are counted at the end, so that one leak is enough. Each order of closing comes a dozen times in each thread.
    let rounds = (env.limits.iterations / 25).clamp(4, 500);
    thread::scope(|scope| {
        let threads = (0..THREADS).map(|thread| {
            scope.spawn(move || -> Result {
                let mut instance = env.instance(SMALL)?;
                for round in 0..rounds {
                    let fixture = MdmaFixture::of(Guest::open(instance)?)?;
                    let buffer = fixture.buffer(IOVA, LEN)?;
                    fixture.container.dirty_start()?;
                    let mut queue = fixture.queue(2)?;
                    let value = round * THREADS as u64 + thread as u64;
                    run_jobs(&mut queue, &[job::fill(guest(IOVA), value, LEN as u64)])?;
                    assert_eq!(buffer.to_vec(LEN - 8, 8), value.to_le_bytes());
                    // Vary the order: unmap first, close first, or unmap all memory of the container at once.
                    instance = match round % 3 {
                        0 => {
                            drop((queue, buffer));
                            fixture.close()
                        }
                        1 => {
                            let container = fixture.container.clone();
                            drop(queue);
                            let instance = fixture.close();
                            drop((buffer, container));
                            instance
                        }
                        _ => {
                            queue.close()?;
                            fixture.container.unmap_all()?;
                            drop(buffer);
                            fixture.close()
                        }
                    };
                }
                Ok(())
            })
        });
        join(threads.collect())
    })?;
    wait_for("the pages to be unpinned", || {
        Ok(Pins::now()?.held() == before)
    })
}
