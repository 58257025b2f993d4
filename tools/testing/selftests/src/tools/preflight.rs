// SPDX-License-Identifier: GPL-2.0

//! `identity()` says what a device would load, and leaves the device as it was.

use vfio_migrate::{file, identity, inspect, Protocol, Quiet};

use crate::env::{Env, MEDIUM, SMALL};
use crate::harness::result::Result;
use crate::tests;
use crate::tools::{fill, open};

tests! { "preflight" needs [Mdma]:
    the_same_type_would_be_loaded [],
    another_size_would_be_refused [],
    the_device_stays_as_it_was [],
}

/// Returns the identity in a stream of a device of this type.
fn saved(env: &Env, of: &str) -> Result<migration::stream::Identity> {
    let device = open(env, of)?;
    let mut stream = Vec::new();
    file::save(
        &device.device,
        Protocol::Auto,
        None,
        false,
        &mut stream,
        &mut Quiet,
    )?;
    let found = inspect(&mut &stream[..], &mut |_| {})?;
    assert_eq!(found.broken, None);
    Ok(found.identity.expect("a valid stream has one"))
}

fn the_same_type_would_be_loaded(env: &Env) -> Result {
    let stream = saved(env, SMALL)?;
    for protocol in [Protocol::V1, Protocol::V2] {
        let device = open(env, SMALL)?;
        let mine = identity(&device.device, protocol)?;
        assert_eq!(mine.accept(&stream), Ok(()), "{protocol:?}");
    }
    Ok(())
}

fn another_size_would_be_refused(env: &Env) -> Result {
    let stream = saved(env, MEDIUM)?;
    let mine = identity(&open(env, SMALL)?.device, Protocol::Auto)?;
    let refusal = mine.accept(&stream).expect_err("another size").to_string();
    assert!(refusal.contains("memory_size"), "{refusal}");
    Ok(())
}

fn the_device_stays_as_it_was(env: &Env) -> Result {
    let device = open(env, SMALL)?;
    fill(&device)?;
    let before = device.read_memory(0, super::USED)?;
    let registers = device.registers()?;
    identity(&device.device, Protocol::Auto)?;
    assert_eq!(device.registers()?.diff(&registers), []);
    assert!(
        device.read_memory(0, super::USED)? == before,
        "device memory"
    );
    Ok(())
}
