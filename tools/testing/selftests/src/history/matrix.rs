// SPDX-License-Identifier: GPL-2.0

//! A device that was saved by any interface is loaded by any other: 16 cells.
//!
//! Each moves device memory, which changes during pre-copy, and a job in flight.

use mdma::regs::Reg;
use mdma::{job, Mdma};
use vfio_client::DmaBuffer;
use vfio_migrate::{Destination, Protocol, Source};

use crate::env::{Env, Guest, SMALL};
use crate::fixture::bytes::{random_bytes, same};
use crate::fixture::{device, guest, wait_register, Fixture, MdmaFixture, PAGE, QUEUE};
use crate::harness::check::PATIENCE;
use crate::harness::result::Result;
use crate::tests;

tests! { "history_matrix" needs [Mdma]:
    from_v1_to_v1 [],
    from_v1_to_v2 ["P49"],
    from_v1_to_v7 ["P36", "P49"],
    from_v1_to_2018 ["P37", "P49"],
    from_v2_to_v1 ["P49"],
    from_v2_to_v2 [],
    from_v2_to_v7 ["P36", "P49"],
    from_v2_to_2018 ["P37", "P49"],
    from_v7_to_v1 ["P36", "P49"],
    from_v7_to_v2 ["P36", "P49"],
    from_v7_to_v7 ["P36"],
    from_v7_to_2018 ["P36", "P37", "P49"],
    from_2018_to_v1 ["P37", "P49"],
    from_2018_to_v2 ["P37", "P49"],
    from_2018_to_v7 ["P36", "P37", "P49"],
    from_2018_to_2018 ["P37"],
}

/// Declares the test of one cell.
macro_rules! cell {
    ($($name:ident: $from:ident, $to:ident;)*) => {$(
        fn $name(env: &Env) -> Result {
            cell(env, Protocol::$from, Protocol::$to)
        }
    )*};
}

cell! {
    from_v1_to_v1: V1, V1;
    from_v1_to_v2: V1, V2;
    from_v1_to_v7: V1, V7;
    from_v1_to_2018: V1, V2018;
    from_v2_to_v1: V2, V1;
    from_v2_to_v2: V2, V2;
    from_v2_to_v7: V2, V7;
    from_v2_to_2018: V2, V2018;
    from_v7_to_v1: V7, V1;
    from_v7_to_v2: V7, V2;
    from_v7_to_v7: V7, V7;
    from_v7_to_2018: V7, V2018;
    from_2018_to_v1: V2018, V1;
    from_2018_to_v2: V2018, V2;
    from_2018_to_v7: V2018, V7;
    from_2018_to_2018: V2018, V2018;
}

/// Guest memory.
const BASE: u64 = 0x100_0000;
const SIZE: usize = 4 << 20;
/// Where the job in flight puts it in device memory.
const COPY: u64 = 8 << 20;
/// Device memory that the guest writes.
const USED: usize = 3 << 20;

/// Opens a new instance with the interface of a protocol.
fn open(env: &Env, protocol: Protocol) -> Result<MdmaFixture<()>> {
    let instance = env.instance(SMALL)?;
    instance.set_migration_abi(match protocol {
        Protocol::V7 => "v7",
        Protocol::V2018 => "2018",
        _ => "v1",
    })?;
    let guest = Guest::open(instance)?;
    Ok(MdmaFixture {
        mdma: Mdma::open(&guest.device)?,
        fixture: Fixture {
            migration: (),
            guest,
        },
    })
}

/// Appends the buffers that can be saved now.
fn save(source: &mut Source, buffers: &mut Vec<Vec<u8>>) -> Result {
    let mut buffer = Vec::new();
    while source.next(&mut buffer)? {
        buffers.push(buffer.clone());
    }
    Ok(())
}

fn cell(env: &Env, from: Protocol, to: Protocol) -> Result {
    let mut rng = fastrand::Rng::with_seed(20);
    let source = open(env, from)?;
    let memory = source.buffer(BASE, SIZE)?;
    memory.write(0, &random_bytes(&mut rng, SIZE));
    source.write_memory(0, &random_bytes(&mut rng, USED))?;
    source.mdma.set(Reg::Scratch, 0x0718_2019_2018_0716)?;

    // 64 units with a pause after each, so that the job outlasts pre-copy on a slow machine too.
    let mut queue = source.queue(4)?;
    source.mdma.set_throttle(500_000)?;
    queue.submit(&job::copy(guest(BASE), device(COPY), SIZE as u64).cookie(7))?;
    wait_register(&source.mdma, Reg::BytesDone, "a job in flight", |n| n > 0)?;

    let mut saved = Source::new(&source.device, from, None)?;
    assert_eq!(saved.protocol(), from);
    let mut buffers = Vec::new();
    saved.pre_copy()?;
    save(&mut saved, &mut buffers)?;
    let before = buffers.len();
    assert!(before > 0, "nothing was sent while the device ran");
    // The guest goes on.
    for page in [0, 1, 100, 700, 767] {
        source.write_memory(page * PAGE, &random_bytes(&mut rng, PAGE as usize))?;
    }
    save(&mut saved, &mut buffers)?;
    source.write_memory(5 * PAGE, &random_bytes(&mut rng, PAGE as usize))?;
    saved.stop_and_copy()?;
    save(&mut saved, &mut buffers)?;
    assert_eq!(saved.pending()?, 0);
    saved.end()?;
    let done = source.mdma.get(Reg::BytesDone)?;
    assert!(done < SIZE as u64, "the job finished before the stop");
    assert_eq!(queue.poll(), None);

    // The destination maps the guest's memory at the same IOVAs but at another address.
    let destination = open(env, to)?;
    let there = destination.buffer(BASE, SIZE)?;
    memory.copy_to(0, &there, 0, SIZE);
    let ring = DmaBuffer::new(&destination.container, QUEUE, queue.memory().memory().len())?;
    queue.memory().copy_to(0, &ring, 0, ring.memory().len());
    let mut loaded = Destination::new(&destination.device, to, None)?;
    assert_eq!(loaded.protocol(), to);
    loaded.resume()?;
    for buffer in &buffers {
        loaded.load(buffer)?;
    }
    loaded.finish()?;
    source.expect_same(&destination, "before it runs")?;
    destination.mdma.set_throttle(0)?;
    loaded.run()?;

    let mut queue = queue.moved(destination.mdma.clone(), ring);
    let completion = queue.wait(PATIENCE)?;
    assert_eq!((completion.cookie, completion.error), (7, 0));
    let found = destination.read_memory(COPY, SIZE)?;
    same(
        &found,
        &memory.to_vec(0, SIZE),
        device(COPY),
        "the job's result",
    );
    let found = destination.read_memory(0, USED)?;
    same(&found, &source.read_memory(0, USED)?, device(0), "the rest");
    assert_eq!(
        source.mdma.get(Reg::BytesDone)?,
        done,
        "the source continued"
    );
    Ok(())
}
