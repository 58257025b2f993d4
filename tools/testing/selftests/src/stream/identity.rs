// SPDX-License-Identifier: GPL-2.0

//! Streams of another device or version, and bytes that are not a stream.

use migration::stream::{device_type, Identity, IdentityText};
use vfio_client::mdev::Instance;
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
    p49_migration_version_tells_before_a_migration ["P49"],
    p49_migration_version_answers_while_the_device_is_used ["P49"],
    p49_malformed_versions_are_refused ["P49"],
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

/// Returns what `migration_version` of an instance says.
fn version(instance: &Instance) -> Result<(String, IdentityText)> {
    let text = instance.migration_version()?.expect("migration_version");
    let parsed = IdentityText::parse(&text).expect("an identity");
    Ok((text, parsed))
}

fn p49_migration_version_tells_before_a_migration(env: &Env) -> Result {
    type Change = fn(&mut Identity);
    let fields: [(&str, Change); 6] = [
        ("device_type", |i| i.device_type = device_type("another")),
        ("device_version", |i| i.device_version += 1),
        ("features", |i| i.features ^= 1 << 31),
        ("memory_size", |i| i.memory_size += PAGE),
        ("page_size", |i| i.page_size *= 2),
        ("state_size_max", |i| i.state_size_max += 1),
    ];
    let bench = Bench::new(env)?;
    let instance = env.instance(env.subject())?;
    let (text, mine) = version(&instance)?;
    let first = &bench.stream.records[0].payload;
    assert_eq!(&first[..], mine.identity.encode(), "{text}");
    instance.check_migration_version(&text)?;
    for (field, change) in fields {
        let mut other = mine;
        change(&mut other.identity);
        let other = other.to_string();
        let uuid = instance.uuid.as_str();
        let check = || instance.check_migration_version(&other);
        assert_refused!(env, uuid, check(), EINVAL, field);
    }
    // What another device says of the versions that it loads is its own affair.
    let other = IdentityText {
        oldest_version: u32::MAX,
        ..mine
    };
    instance.check_migration_version(&other.to_string())?;
    assert_eq!(version(&instance)?.1, mine);
    Ok(())
}

fn p49_migration_version_answers_while_the_device_is_used(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let (text, _) = version(&fixture.instance)?;
    for state in [State::PRE_COPY, State::STOP_AND_COPY, State::RUNNING] {
        fixture.go(&[state])?;
        assert_eq!(version(&fixture.instance)?.0, text);
        fixture.instance.check_migration_version(&text)?;
    }
    fixture.usable()
}

fn p49_malformed_versions_are_refused(env: &Env) -> Result {
    let instance = env.instance(env.subject())?;
    let (text, _) = version(&instance)?;
    env.module.limit_log(false)?;
    for wrong in [
        "\n".into(),
        "\0".into(),
        "\u{fffd}".into(),
        text.replace("features", "feature"),
        format!("{text} {text}"),
        text.replace("page_size=", "page_size=-"),
        text.replace("memory_size=", "memory_size=99999999999999999999"),
        text.replace("device_type=", "device_type=0123456789abcdef"),
        "a=".repeat(2000),
    ] {
        assert_errno!(
            instance.check_migration_version(&wrong),
            EINVAL,
            "{wrong:?}"
        );
    }
    let other = text.replace("stream_version=1", "stream_version=2");
    assert_errno!(instance.check_migration_version(&other), EPROTONOSUPPORT);
    env.module.limit_log(true)?;
    instance.check_migration_version(&text)?;
    Ok(())
}
