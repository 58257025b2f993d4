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
use crate::fixture::v2::{expect_over, MdmaV2};
use crate::fixture::{MdmaFixture, PAGE};
use crate::harness::check::{wait_for, PATIENCE};
use crate::harness::result::Result;
use crate::{fail, note, tests};
use records::{Record, Stream};

tests! { "zero" needs [Mdma]:
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
fn identity(device: &MdmaFixture) -> Result<Vec<u8>> {
    device.go(&[State::PRE_COPY])?;
    let mut bytes = device.save_pending()?.concat();
    device.go(&[State::RUNNING])?;
    bytes.truncate(HEADER_SIZE + IDENTITY_SIZE);
    Ok(bytes)
}

/// A ZERO record frees its pages. A mapping of them then reads 0 and is writable.
fn p26_zero_makes_holes_under_a_mapping(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let begin = identity(&fixture)?;
    let memory = fixture.mdma.map_memory()?;
    fixture.go(&[State::RESUMING])?;
    fixture.feed(&begin, 1 << 16)?;
    let page = |n: u64| (n * PAGE) as usize;
    for n in 0..1024 {
        memory.store_u64(page(n), n + 1, Ordering::Relaxed);
    }
    assert_eq!(debugfs::migration(fixture.uuid(), "populated_pages")?, 1024);
    // The range starts and ends in the middle of a block of pages.
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
    // A new stream clears all memory.
    fixture.feed(&begin, 1 << 16)?;
    assert_eq!(debugfs::migration(fixture.uuid(), "populated_pages")?, 0);
    assert_eq!(memory.load_u64(0, Ordering::Relaxed), 0);
    drop(memory);
    Ok(fixture.device.reset()?)
}

/// Compares ZERO records of one page with as many of all device memory. All pages are holes. Earlier, the time grew
/// with the number of pages: 60 ms a record, with the state locked. One write to a register, with a data section full
/// of such records, took 26 minutes, and the user could not be killed.
fn p26_zero_costs_no_more_for_more_memory(env: &Env) -> Result {
    const FACTOR: u32 = 100;
    let fixture = MdmaFixture::of(env.open(LARGE)?)?;
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
    // Start with few records: with the bug, all records would take half an hour.
    for records in [50, most] {
        // Take the best of three, because the machine has other load.
        let mut best = [Duration::MAX; 2];
        for _ in 0..3 {
            for (best, length) in best.iter_mut().zip([PAGE, size]) {
                *best = took(records, length)?.min(*best);
            }
        }
        let [page, all] = best;
        note!("{records} records of a page took {page:?}, of {size} bytes {all:?}");
        assert!(
            all < page * FACTOR,
            "{records} records of a page took {page:?}, of all memory {all:?}"
        );
    }
    Ok(())
}

/// The child process: loads ZERO records of all device memory through v2 in an endless loop.
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
        fail!("the device returned no data file");
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
        fail!("the device returned no data file");
    };
    // If a few records take long, the child cannot be killed soon. Fail instead of loading more.
    let start = Instant::now();
    load.write_all(&zeros(&begin, 1000, size))?;
    let took = start.elapsed();
    let mut out = std::io::stdout();
    // Some milliseconds; earlier, a minute.
    match took < Duration::from_secs(20) {
        true => writeln!(out, "ready")?,
        false => fail!("1000 records took {took:?}"),
    }
    let stream = zeros(&begin, count.parse().expect("a number"), size);
    // Each round restarts the stream.
    loop {
        load.write_all(&stream)?;
    }
}

/// A process that loads records can be killed in the middle of a write.
fn p26_a_kill_ends_a_load(env: &Env) -> Result {
    // A record that takes as long as it did earlier, 60 ms, makes this one write of 100 minutes.
    const RECORDS: &str = "100000";
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
            fail!("the child survives SIGKILL:\n{}", user.stacks());
        }
        note!("killed in {:?}", start.elapsed());
        instance.remove()?;
    }
    Ok(())
}

/// Data files of ended sessions hold no memory. Earlier, each kept its buffer of 1 MiB until its close.
fn p43_files_of_former_sessions_hold_no_memory(env: &Env) -> Result {
    const ROUNDS: usize = 1000;
    const MOST: u64 = 50 << 20;
    let v2 = MdmaV2::new(env)?;
    v2.write_pages([1], 1)?;
    let cgroup = Cgroup::new()?;
    let _inside = Inside::enter(&cgroup)?;
    let before = cgroup.settled_memory()?;
    let mut kept = Vec::new();
    for round in 0..ROUNDS {
        let fd = v2.begin(v2::State::PRE_COPY)?;
        // Make the data file allocate its buffer, and leave data in it.
        fd.read(&mut [0; 10])?;
        v2.to(v2::State::RUNNING)?;
        kept.push(fd);
        let grown = cgroup.memory()?.saturating_sub(before);
        if grown > 2 * MOST {
            fail!("{grown} bytes for {} data files", round + 1);
        }
    }
    let grown = cgroup.settled_memory()?.saturating_sub(before);
    note!("{grown} bytes for {ROUNDS} data files");
    assert!(grown < MOST, "{grown} bytes for {ROUNDS} data files");
    for fd in kept.iter().step_by(100) {
        expect_over(fd, "after its session ended");
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
        left.expect("cannot return to the original control group");
    }
}
