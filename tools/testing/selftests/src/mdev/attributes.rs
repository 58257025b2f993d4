// SPDX-License-Identifier: GPL-2.0

//! The attributes of an instance that root sets before its first use.

use mdma::regs::{Reg, MAX_THROTTLE_US};
use mdma::Mdma;
use vfio_client::mdev::Instance;

use crate::env::{Env, Guest, SMALL};
use crate::fixture::MdmaFixture;
use crate::harness::result::Result;
use crate::{assert_errno, assert_refused, tests};

tests! { "attributes" needs [Mdma]:
    data_section_kib_is_the_size_of_the_section ["P28"],
    data_section_kib_is_that_of_its_instance_only [],
    data_section_kib_out_of_range [],
    throttle_us_is_the_reset_value [],
    throttle_us_out_of_range [],
    no_number_is_taken_after_the_first_open [],
    text_that_is_no_number [],
}

const SECTION: &str = "data_section_kib";
const THROTTLE: &str = "throttle_us";

/// Values that are no numbers.
const NO_NUMBERS: [&str; 7] = [
    "x",
    "-1",
    "64k",
    " 64",
    "64\n\n",
    "18446744073709551616",
    "\n",
];

/// Returns an attribute that is a number.
fn number(instance: &Instance, name: &str) -> Result<u64> {
    Ok(instance.attribute(name)?.unwrap_or_default().parse()?)
}

/// Sets such an attribute.
fn set_number(instance: &Instance, name: &str, value: u64) -> vfio_client::Result<()> {
    instance.set_attribute(name, &value.to_string())
}

fn data_section_kib_is_the_size_of_the_section(env: &Env) -> Result {
    for kib in [64, 68, 65536] {
        let fixture = |abi| -> Result<Guest> {
            let instance = env.instance(SMALL)?;
            instance.set_migration_abi(abi)?;
            set_number(&instance, SECTION, kib)?;
            assert_eq!(number(&instance, SECTION)?, kib);
            Guest::open(instance)
        };
        let source: MdmaFixture = MdmaFixture::of(fixture("v1")?)?;
        assert_eq!(source.section() as u64, kib << 10);
        // Migration works with buffers of that size.
        source.write_memory(12345, &[7; 200_000])?;
        let saved = source.save()?;
        let destination: MdmaFixture = MdmaFixture::of(fixture("v1")?)?;
        destination.load(&saved)?;
        assert_eq!(destination.read_memory(12345, 200_000)?, [7; 200_000]);
        // The older regions have that size too.
        fixture("v7")?;
        fixture("2018")?;
    }
    Ok(())
}

fn data_section_kib_is_that_of_its_instance_only(env: &Env) -> Result {
    let (one, other) = (env.instance(SMALL)?, env.instance(SMALL)?);
    assert_eq!(number(&one, SECTION)?, 1024);
    // The last choice counts.
    for kib in [65536, 128, 64] {
        set_number(&one, SECTION, kib)?;
    }
    assert_eq!(number(&other, SECTION)?, 1024);
    let other: MdmaFixture = MdmaFixture::of(Guest::open(other)?)?;
    assert_eq!(other.section(), 1024 << 10);
    let one: MdmaFixture = MdmaFixture::of(Guest::open(one)?)?;
    assert_eq!(one.section(), 64 << 10);
    Ok(())
}

fn data_section_kib_out_of_range(env: &Env) -> Result {
    let instance = env.instance(SMALL)?;
    for kib in [0, 1, 60, 63, 65, 65537, 65540, 1 << 32, 1 << 54, u64::MAX] {
        let set = || set_number(&instance, SECTION, kib);
        assert_refused!(env, instance.uuid.as_str(), set(), EINVAL, SECTION);
        assert_eq!(number(&instance, SECTION)?, 1024, "{kib}");
    }
    let fixture: MdmaFixture = MdmaFixture::of(Guest::open(instance)?)?;
    assert_eq!(fixture.section(), 1024 << 10);
    Ok(())
}

fn throttle_us_is_the_reset_value(env: &Env) -> Result {
    for us in [1, MAX_THROTTLE_US, 0] {
        let (one, other) = (env.instance(SMALL)?, env.open(SMALL)?);
        assert_eq!(number(&one, THROTTLE)?, 0);
        set_number(&one, THROTTLE, us.into())?;
        assert_eq!(number(&one, THROTTLE)?, us.into());
        let one = Guest::open(one)?;
        let mdma = Mdma::open(&one.device)?;
        assert_eq!(mdma.get(Reg::Throttle)?, us.into());
        mdma.set_throttle(5)?;
        // The attribute is the value after a reset, not that of the register.
        assert_eq!(number(&one.instance, THROTTLE)?, us.into());
        one.device.reset()?;
        assert_eq!(mdma.get(Reg::Throttle)?, us.into());
        assert_eq!(Mdma::open(&other.device)?.get(Reg::Throttle)?, 0);
        // It also stays over a close, which resets the device.
        mdma.set_throttle(5)?;
        drop(mdma);
        let one = Guest::open(one.close())?;
        assert_eq!(Mdma::open(&one.device)?.get(Reg::Throttle)?, us.into());
    }
    Ok(())
}

fn throttle_us_out_of_range(env: &Env) -> Result {
    let instance = env.instance(SMALL)?;
    set_number(&instance, THROTTLE, 7)?;
    for us in [u64::from(MAX_THROTTLE_US) + 1, 1 << 32, u64::MAX] {
        assert_errno!(set_number(&instance, THROTTLE, us), EINVAL, "{us}");
        assert_eq!(number(&instance, THROTTLE)?, 7, "{us}");
    }
    Ok(())
}

fn no_number_is_taken_after_the_first_open(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    let uuid = guest.uuid().to_owned();
    for (name, value) in [(SECTION, 64), (THROTTLE, 1)] {
        let set = || set_number(&guest.instance, name, value);
        assert_refused!(env, &uuid, set(), EBUSY, "opened before");
    }
    let instance = guest.close();
    for (name, value, before) in [(SECTION, 64, 1024), (THROTTLE, 1, 0)] {
        let set = || set_number(&instance, name, value);
        assert_refused!(env, &uuid, set(), EBUSY, "opened before");
        assert_eq!(number(&instance, name)?, before);
    }
    Ok(())
}

fn text_that_is_no_number(env: &Env) -> Result {
    let instance = env.instance(SMALL)?;
    for name in [SECTION, THROTTLE] {
        let before = number(&instance, name)?;
        for text in NO_NUMBERS {
            let result = std::fs::write(instance.path().join(name), text);
            let errno = result.map_err(|e| e.raw_os_error());
            assert_eq!(errno, Err(Some(libc::EINVAL)), "{name}: {text:?}");
        }
        assert_eq!(number(&instance, name)?, before);
        // As in the files of the kernel.
        std::fs::write(instance.path().join(name), "0x80\n")?;
        assert_eq!(number(&instance, name)?, 128);
    }
    Ok(())
}
