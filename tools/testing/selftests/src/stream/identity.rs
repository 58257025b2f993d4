// SPDX-License-Identifier: GPL-2.0

//! Streams of another device or version, and bytes that are not a stream.

use migration::stream::{device_type, Identity};
use vfio_client::v1::State;

use crate::env::Env;
use crate::fixture::bytes::{all_are, random_bytes};
use crate::fixture::{Fixture, MdmaFixture, PAGE};
use crate::harness::result::Result;
use crate::stream::bench::Bench;
use crate::{assert_errno, assert_refused, tests};

tests! { "identity":
    p49_another_identity_is_refused_by_field ["P49"],
    p49_foreign_bytes_are_refused ["P49"],
    p49_a_refused_stream_leaves_the_device ["P49"],
    p49_another_type_of_the_same_device ["P49"] needs [Mdma],
}

fn p49_another_identity_is_refused_by_field(env: &Env) -> Result {
    type Change = fn(&mut Identity);
    let fields: [(&str, Change); 8] = [
        ("device_type", |i| i.device_type = device_type("another")),
        ("device_type", |i| i.device_type[15] ^= 1),
        ("device_version", |i| i.device_version += 1),
        ("features", |i| i.features ^= 1 << 31),
        ("memory_size", |i| i.memory_size += PAGE),
        ("memory_size", |i| i.memory_size = 0),
        ("page_size", |i| i.page_size *= 2),
        ("state_size_max", |i| i.state_size_max += 1),
    ];
    let bench = Bench::new(env)?;
    for (field, change) in fields {
        let bytes = bench.with_identity(change)?.bytes();
        if bytes == bench.stream.bytes() {
            // A device without memory has a memory size of 0.
            continue;
        }
        // The device refuses the write that completes the record, before it checks later records. Each field needs a
        // new device, because the kernel limits the log lines per device.
        let fixture = Fixture::new(env)?;
        fixture.go(&[State::RESUMING])?;
        let uuid = fixture.uuid();
        let first = &bytes[..bench.stream.records[0].size()];
        let load = || fixture.migration.load_buffer(first);
        assert_refused!(env, uuid, load(), EINVAL, field);
        drop(fixture);
        bench.refused(&bytes, libc::EINVAL, field)?;
    }
    for version in [0, 2, u32::MAX] {
        let mut stream = bench.stream.clone();
        stream.records[0].payload[8..12].copy_from_slice(&version.to_le_bytes());
        // The device checks the version before anything that another version may change.
        stream.records[0].payload.extend([0; 16]);
        stream.seal();
        let fixture = Fixture::new(env)?;
        fixture.go(&[State::RESUMING])?;
        let uuid = fixture.uuid();
        let load = || fixture.migration.load_buffer(&stream.bytes());
        assert_refused!(env, uuid, load(), EPROTONOSUPPORT, "version");
        drop(fixture);
        let what = format!("version {version}");
        bench.refused(&stream.bytes(), libc::EPROTONOSUPPORT, &what)?;
    }
    bench.usable()
}

fn p49_foreign_bytes_are_refused(env: &Env) -> Result {
    let bench = Bench::new(env)?;
    let mut rng = fastrand::Rng::with_seed(50);
    let intact = bench.stream.bytes();
    for (what, bytes) in [
        ("zeroes", vec![0; 4096]),
        ("ones", vec![0xff; 4096]),
        ("noise", random_bytes(&mut rng, 10_000)),
        ("text", b"QEVM ".repeat(100)),
        ("without its beginning", intact[1..].to_vec()),
        (
            "without its identity",
            intact[bench.stream.records[0].size()..].to_vec(),
        ),
    ] {
        bench.refused(&bytes, libc::EINVAL, what)?;
    }
    bench.spoilt("another magic", libc::EINVAL, |s| {
        s.records[0].payload[0] ^= 0x20
    })?;
    let fixture = Fixture::new(env)?;
    fixture.go(&[State::RESUMING])?;
    let uuid = fixture.uuid();
    let load = || fixture.migration.load_buffer(&[0; 4096]);
    assert_refused!(env, uuid, load(), EINVAL, "not a device state");
    drop(fixture);
    bench.usable()
}

fn p49_a_refused_stream_leaves_the_device(env: &Env) -> Result {
    let bench = Bench::new(env)?;
    let fixture = &bench.fixture;
    let bytes = bench.with_identity(|i| i.device_version += 1)?.bytes();
    fixture.set_mark(7)?;
    fixture.go(&[State::RESUMING])?;
    assert_errno!(fixture.migration.load_buffer(&bytes), EINVAL);
    fixture.expect_mark(7, "a refused stream");
    // The device has not loaded the memory that follows in the same buffer.
    assert!(all_are(&fixture.read_pages(0..16)?, 0));
    assert_errno!(fixture.migration.write_state(State::RUNNING), EINVAL);
    fixture.expect_mark(7, "a refused stream");
    fixture.device.reset()?;
    bench.usable()
}

fn p49_another_type_of_the_same_device(env: &Env) -> Result {
    let bench = Bench::new(env)?;
    let larger = MdmaFixture::of(env.open(crate::env::MEDIUM)?)?;
    larger.go(&[State::RESUMING])?;
    let uuid = larger.uuid();
    let load = || larger.migration.load_buffer(&bench.stream.bytes());
    assert_refused!(env, uuid, load(), EINVAL, "memory_size");
    larger.device.reset()?;
    let bytes = larger.save()?;
    bench.refused(
        &bytes,
        libc::EINVAL,
        "a stream of a device with more memory",
    )
}
