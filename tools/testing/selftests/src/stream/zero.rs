// SPDX-License-Identifier: GPL-2.0

//! The cost of a load to the host: a ZERO record is 40 bytes and can cover all device memory.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use migration::stream::{Kind, HEADER_SIZE, IDENTITY_SIZE};
use vfio_client::mdev::{Sysfs, Uuid};
use vfio_client::v1::State;
use vfio_client::v2;
use vfio_client::{Container, Device};

use ::hostile::{admitted, Cgroup, User};

use crate::env::debugfs;
use crate::env::{Env, LARGE};
use crate::fixture::v2::{expect_over, V2};
use crate::fixture::{Fixture, PAGE};
use crate::harness::check::{wait_for, PATIENCE};
use crate::harness::result::Result;
use crate::{fail, note, tests};
use records::{Record, Stream};

tests! { "zero":
    p26_zero_makes_holes_under_a_mapping ["P26"],
    p26_zero_costs_no_more_for_more_memory ["P26"],
    p26_a_kill_ends_a_load ["P26"],
    p43_files_of_former_sessions_hold_no_memory ["P43"],
}

/// Returns the start of a stream of a device, then `count` ZERO records of `length` bytes.
fn zeros(identity: &[u8], count: usize, length: u64) -> Vec<u8> {
    let mut bytes = identity.to_vec();
    let mut record = Record::new(Kind::Zero as u16, 0, length.to_le_bytes().to_vec());
    record.header.payload_crc = records::crc(&record.payload);
    for sequence in 1..=count as u64 {
        record.header.sequence = sequence;
        bytes.extend(record.bytes());
    }
    bytes
}

/// Returns the IDENTITY record of a device.
fn identity(device: &Fixture) -> Result<Vec<u8>> {
    device.go(&[State::PRE_COPY])?;
    let mut bytes = device.save_pending()?.concat();
    device.go(&[State::RUNNING])?;
    bytes.truncate(HEADER_SIZE + IDENTITY_SIZE);
    Ok(bytes)
}

/// A ZERO record frees its pages. A mapping of them then reads 0 and can be written again.
fn p26_zero_makes_holes_under_a_mapping(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let begin = identity(&fixture)?;
    let memory = fixture.mdma.map_memory()?;
    fixture.go(&[State::RESUMING])?;
    fixture.feed(&begin, 1 << 16)?;
    let page = |n: u64| (n * PAGE) as usize;
    for n in 0..1024 {
        memory.store_u64(page(n), n + 1, Ordering::Relaxed);
    }
    assert_eq!(debugfs::migration(fixture.uuid(), "populated_pages")?, 1024);
    // From the middle of one block of pages to the middle of another.
    let mut record = Record::new(
        Kind::Zero as u16,
        100 * PAGE,
        (800 * PAGE).to_le_bytes().to_vec(),
    );
    record.header.sequence = 1;
    record.header.payload_crc = records::crc(&record.payload);
    fixture.feed(&record.bytes(), 1 << 16)?;
    assert_eq!(debugfs::migration(fixture.uuid(), "populated_pages")?, 224);
    for n in 0..1024 {
        let hole = (100..900).contains(&n);
        let expected = if hole { 0 } else { n + 1 };
        assert_eq!(
            memory.load_u64(page(n), Ordering::Relaxed),
            expected,
            "page {n}"
        );
        memory.store_u64(page(n), n + 2, Ordering::Relaxed);
        assert_eq!(
            memory.load_u64(page(n), Ordering::Relaxed),
            n + 2,
            "page {n}"
        );
    }
    assert_eq!(debugfs::migration(fixture.uuid(), "populated_pages")?, 1024);
    // Another stream discards all of it.
    fixture.feed(&begin, 1 << 16)?;
    assert_eq!(debugfs::migration(fixture.uuid(), "populated_pages")?, 0);
    assert_eq!(memory.load_u64(0, Ordering::Relaxed), 0);
    drop(memory);
    Ok(fixture.device.reset()?)
}

/// The same number of records, of one page that is a hole and of all of memory, which are holes. The second took as
/// long as there are pages, some ten thousand times longer: 60 ms a record, with the state locked. So one write to a
/// register took 26 minutes if all of the data section was such records, and could not be killed.
fn p26_zero_costs_no_more_for_more_memory(env: &Env) -> Result {
    const FACTOR: u32 = 100;
    let fixture = Fixture::of(env.open(LARGE)?)?;
    let begin = identity(&fixture)?;
    let size = fixture.mdma.memory_size();
    let most = (fixture.section() - begin.len()) / (HEADER_SIZE + 8);
    assert!(most > 26_000);
    let took = |records: usize, length: u64| -> Result<Duration> {
        let stream = zeros(&begin, records, length);
        fixture.go(&[State::RESUMING])?;
        let start = Instant::now();
        fixture.feed(&stream, fixture.section())?;
        let took = start.elapsed();
        assert_eq!(
            debugfs::migration(fixture.uuid(), "load_records")?,
            records as u64 + 1
        );
        fixture.device.reset()?;
        Ok(took)
    };
    // Fewer first: whoever fails with these would need half an hour for all.
    for records in [50, most] {
        // The best of some, as the machine does other things as well.
        let mut best = [Duration::MAX; 2];
        for _ in 0..3 {
            for (best, length) in best.iter_mut().zip([PAGE, size]) {
                *best = took(records, length)?.min(*best);
            }
        }
        let [page, all] = best;
        note!("{records} records of a page in {page:?}, of {size} bytes in {all:?}");
        assert!(
            all < page * FACTOR,
            "{records} records of a page take {page:?}, of all of memory {all:?}"
        );
    }
    Ok(())
}

/// The child: loads ZERO records of all device memory through v2 without end.
pub(crate) fn flood(args: &[String]) -> Result {
    admitted()?;
    let [uuid, count] = args else {
        fail!("flood takes an instance and a number of records");
    };
    let instance = Sysfs::default().instance(&Uuid::parse(uuid)?)?;
    let container = Container::open()?;
    let device: Device = instance.open(&container)?;
    let Some(feature) = device.migration_v2()? else {
        fail!("the device has no migration feature");
    };
    let Some(save) = feature.set_state(v2::State::PRE_COPY)? else {
        fail!("no data descriptor");
    };
    let mut begin = vec![0; HEADER_SIZE + IDENTITY_SIZE];
    save.read(&mut begin)?;
    drop(save);
    feature.set_state(v2::State::RUNNING)?;
    let identity = Stream::parse(&begin).and_then(|s| s.identity());
    let size = identity
        .map_err(crate::harness::result::Ended::failed)?
        .memory_size;
    let Some(load) = feature.set_state(v2::State::RESUMING)? else {
        fail!("no data descriptor");
    };
    // Who takes long for a few cannot be killed soon, and is not asked for more.
    let start = Instant::now();
    load.write_all(&zeros(&begin, 20, size))?;
    let took = start.elapsed();
    let mut out = std::io::stdout();
    match took < Duration::from_secs(1) {
        true => writeln!(out, "ready")?,
        false => fail!("20 records took {took:?}"),
    }
    let stream = zeros(&begin, count.parse().expect("a number"), size);
    // Each round begins anew.
    loop {
        load.write_all(&stream)?;
    }
}

/// A process that loads records can be killed in the middle of a write.
fn p26_a_kill_ends_a_load(env: &Env) -> Result {
    // 80 MB of stream, and minutes of work.
    const RECORDS: &str = "2000000";
    for _ in 0..env.limits.kills.min(3) {
        let instance = env.instance(LARGE)?;
        ::hostile::own_node(instance.iommu_group()?)?;
        let mut user = User::start(
            &["--child", "flood", instance.uuid.as_str(), RECORDS],
            None,
            &[],
        )?;
        assert_eq!(user.hear()?, "ready");
        let before = debugfs::migration(instance.uuid.as_str(), "load_records")?;
        wait_for("records to be loaded", || {
            Ok(debugfs::migration(instance.uuid.as_str(), "load_records")? > before)
        })?;
        let start = Instant::now();
        user.kill()?;
        if user.wait(PATIENCE / 4)?.is_none() {
            fail!("it cannot be killed:\n{}", user.stacks());
        }
        note!("killed in {:?}", start.elapsed());
        instance.remove()?;
    }
    Ok(())
}

/// Data files whose sessions are over. Before, each kept its buffer of 1 MiB while it was open.
fn p43_files_of_former_sessions_hold_no_memory(env: &Env) -> Result {
    const ROUNDS: usize = 1000;
    const MOST: u64 = 50 << 20;
    let v2 = V2::new(env)?;
    v2.write_pages([1], 1)?;
    let cgroup = Cgroup::new()?;
    let _inside = Inside::enter(&cgroup)?;
    let before = cgroup.settled_memory()?;
    let mut kept = Vec::new();
    for round in 0..ROUNDS {
        let fd = v2.begin(v2::State::PRE_COPY)?;
        // So that it has used its buffer, and there is something in it.
        fd.read(&mut [0; 10])?;
        v2.to(v2::State::RUNNING)?;
        kept.push(fd);
        let grown = cgroup.memory()?.saturating_sub(before);
        if grown > 2 * MOST {
            fail!("{grown} bytes for {} descriptors", round + 1);
        }
    }
    let grown = cgroup.settled_memory()?.saturating_sub(before);
    note!("{grown} bytes for {ROUNDS} descriptors");
    assert!(grown < MOST, "{grown} bytes for {ROUNDS} descriptors");
    for fd in kept.iter().step_by(100) {
        expect_over(fd, "kept");
    }
    Ok(())
}

/// Keeps this process in a control group until dropped. Dropping a group kills the processes in it.
struct Inside(PathBuf);

impl Inside {
    fn enter(cgroup: &Cgroup) -> Result<Self> {
        let text = fs::read_to_string("/proc/self/cgroup")?;
        let home = text.trim().rsplit("::").next().unwrap_or("/");
        let inside = Inside(Path::new("/sys/fs/cgroup").join(home.trim_start_matches('/')));
        cgroup.add(std::process::id())?;
        Ok(inside)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let left = fs::write(self.0.join("cgroup.procs"), std::process::id().to_string());
        left.expect("a process may always go back");
    }
}
