// SPDX-License-Identifier: GPL-2.0

//! Ways to migrate that a driver chooses, a device that fails, and two drivers in one module.

use migration::stream::Kind;
use records::{Record, Stream};
use vfio_client::v2::State;
use vfio_client::{v1, Region};

use crate::env::sample::Sample;
use crate::env::{Env, Guest};
use crate::harness::check::wait_for;
use crate::harness::result::Result;
use crate::{assert_errno, tests};

tests! { "variants" needs [Mdma]:
    each_type_shows_what_it_offers [],
    states_that_are_not_offered_are_refused [],
    every_type_migrates [],
    p42_a_device_that_fails_enters_error ["P42"],
    a_failure_ends_the_session [],
    failing_work_does_no_more [],
    two_drivers_of_one_module [],
    p49_the_state_of_an_older_version_is_loaded ["P49"],
}

const VALUE: u64 = 0x0;
const FAIL: u64 = 0x4;
const WORK: u64 = 0x8;

/// What a type offers.
pub(super) struct Type {
    pub(super) name: &'static str,
    v1: bool,
    v2: bool,
    pre_copy: bool,
    p2p: bool,
}

pub(super) const ALL: Type = Type {
    name: "variants-all",
    v1: true,
    v2: true,
    pre_copy: true,
    p2p: true,
};

const TYPES: [Type; 7] = [
    ALL,
    Type {
        name: "variants-none",
        v1: false,
        v2: false,
        ..ALL
    },
    Type {
        name: "variants-v1",
        v2: false,
        ..ALL
    },
    Type {
        name: "variants-v2",
        v1: false,
        ..ALL
    },
    Type {
        name: "variants-no_pre_copy",
        pre_copy: false,
        ..ALL
    },
    Type {
        name: "variants-no_p2p",
        p2p: false,
        ..ALL
    },
    Type {
        name: "variants-stop_copy",
        pre_copy: false,
        p2p: false,
        ..ALL
    },
];

impl Type {
    /// Returns whether a device of this type has a v2 state.
    fn has(&self, state: State) -> bool {
        let p2p = matches!(state, State::RUNNING_P2P | State::PRE_COPY_P2P);
        let pre_copy = matches!(state, State::PRE_COPY | State::PRE_COPY_P2P);
        (!p2p || self.p2p) && (!pre_copy || self.pre_copy)
    }
}

/// An open device that is bus master.
pub(super) struct Variant {
    pub(super) bar: Region,
    pub(super) guest: Guest,
}

impl Variant {
    pub(super) fn new(env: &Env, typ: &str) -> Result<Self> {
        let guest = env.open(typ)?;
        guest.device.config()?.enable()?;
        let bar = guest.region(0)?;
        Ok(Variant { bar, guest })
    }

    /// Does a unit of work.
    pub(super) fn work(&self) -> Result {
        let before = self.bar.read_u32(WORK)?;
        self.bar.write_u32(WORK, 0)?;
        wait_for("a unit of work", || Ok(self.bar.read_u32(WORK)? > before))
    }
}

fn each_type_shows_what_it_offers(env: &Env) -> Result {
    let _module = Sample::load(env, "variants")?;
    for typ in &TYPES {
        let dev = Variant::new(env, typ.name)?;
        let v1 = dev.guest.device.migration_v1()?;
        assert_eq!(v1.is_some(), typ.v1, "{}", typ.name);
        if !typ.v1 {
            let mut state = [0; 4];
            assert_errno!(dev.guest.device.pread(9 << 40, &mut state), EINVAL);
        }
        let v2 = dev.guest.device.migration_v2()?;
        assert_eq!(v2.is_some(), typ.v2, "{}", typ.name);
        if let Some(v2) = v2 {
            let flags = (v2.has_stop_copy(), v2.has_pre_copy(), v2.has_p2p());
            assert_eq!(flags, (true, typ.pre_copy, typ.p2p), "{}", typ.name);
        }
        dev.work()?;
    }
    Ok(())
}

fn states_that_are_not_offered_are_refused(env: &Env) -> Result {
    let _module = Sample::load(env, "variants")?;
    let states = [
        State::STOP,
        State::RUNNING,
        State::STOP_COPY,
        State::RESUMING,
        State::RUNNING_P2P,
        State::PRE_COPY,
        State::PRE_COPY_P2P,
    ];
    for typ in TYPES.iter().filter(|typ| typ.v2) {
        for from in states.into_iter().filter(|state| typ.has(*state)) {
            for to in states {
                let dev = Variant::new(env, typ.name)?;
                let migration = dev.guest.v2()?;
                migration.set_state(from)?;
                let back =
                    from == State::STOP_COPY && matches!(to, State::PRE_COPY | State::PRE_COPY_P2P);
                // The end of a load without a stream fails.
                if from == State::RESUMING && to != from {
                    continue;
                }
                let name = format!("{}: {from:?} to {to:?}", typ.name);
                if typ.has(to) && !back {
                    migration.set_state(to)?;
                    assert_eq!(migration.state()?, to, "{name}");
                } else {
                    assert_errno!(migration.set_state(to), EINVAL, "{name}");
                    assert_eq!(migration.state()?, from, "{name}");
                }
            }
        }
    }
    Ok(())
}

fn every_type_migrates(env: &Env) -> Result {
    let _module = Sample::load(env, "variants")?;
    for typ in &TYPES {
        let source = Variant::new(env, typ.name)?;
        source.bar.write_u32(VALUE, 7)?;
        source.work()?;
        for by_v1 in [true, false] {
            if (by_v1 && !typ.v1) || (!by_v1 && !typ.v2) {
                continue;
            }
            let target = Variant::new(env, typ.name)?;
            let mut stream = Vec::new();
            if by_v1 {
                let migration = source.guest.v1()?;
                migration.set_state(v1::State::PRE_COPY)?;
                let mut sink = |bytes: &[u8]| {
                    stream.extend(bytes);
                    Ok(())
                };
                migration.save_all(&mut sink)?;
                migration.set_state(v1::State::STOP_AND_COPY)?;
                migration.save_all(&mut sink)?;
                migration.set_state(v1::State::RUNNING)?;
                let migration = target.guest.v1()?;
                migration.set_state(v1::State::RESUMING)?;
                migration.load_buffer(&stream)?;
                migration.set_state(v1::State::RUNNING)?;
            } else {
                let migration = source.guest.v2()?;
                let mut file = None;
                for state in [State::PRE_COPY, State::PRE_COPY_P2P, State::STOP_COPY] {
                    if typ.has(state) {
                        file = migration.set_state(state)?.or(file);
                        let file = file.as_ref().expect("a data file");
                        file.read_available(&mut stream)?;
                    }
                }
                migration.set_state(State::RUNNING)?;
                target.guest.load(&stream, State::RUNNING)?;
            }
            assert_eq!(target.bar.read_u32(VALUE)?, 7, "{} {by_v1}", typ.name);
            target.work()?;
        }
    }
    Ok(())
}

fn p42_a_device_that_fails_enters_error(env: &Env) -> Result {
    let _module = Sample::load(env, "variants")?;
    for register in [FAIL, WORK] {
        let dev = Variant::new(env, ALL.name)?;
        let migration = dev.guest.v2()?;
        dev.bar.write_u32(register, 1)?;
        wait_for("the error state", || Ok(migration.state()? == State::ERROR))?;
        assert_eq!(dev.guest.v1()?.state()?, v1::State::ERROR);
        for state in [State::RUNNING, State::STOP, State::PRE_COPY] {
            assert_errno!(migration.set_state(state), EINVAL);
        }
        for state in [v1::State::RUNNING, v1::State::STOP] {
            assert_errno!(dev.guest.v1()?.write_state(state), EINVAL);
        }
        dev.guest.device.reset()?;
        assert_eq!(migration.state()?, State::RUNNING);
        dev.work()?;
        // A failure does not outlive a close either.
        dev.bar.write_u32(FAIL, 1)?;
        let Variant { bar, guest } = dev;
        drop((bar, migration));
        let Guest {
            device,
            container,
            instance,
        } = guest;
        drop((device, container));
        let guest = Guest::open(instance)?;
        guest.device.config()?.enable()?;
        let bar = guest.region(0)?;
        let dev = Variant { bar, guest };
        assert_eq!(dev.guest.v2()?.state()?, State::RUNNING);
        dev.work()?;
    }
    Ok(())
}

fn a_failure_ends_the_session(env: &Env) -> Result {
    let _module = Sample::load(env, "variants")?;
    for state in [State::PRE_COPY, State::STOP_COPY, State::RESUMING] {
        let dev = Variant::new(env, ALL.name)?;
        let migration = dev.guest.v2()?;
        let file = migration.set_state(state)?.expect("a data file");
        dev.bar.write_u32(FAIL, 1)?;
        if state == State::RESUMING {
            assert_errno!(file.write(&[0; 32]), ENODEV);
        } else {
            assert_errno!(file.read(&mut [0; 32]), ENODEV);
        }
        assert_eq!(migration.state()?, State::ERROR);
        dev.guest.device.reset()?;
        dev.work()?;
    }
    let dev = Variant::new(env, ALL.name)?;
    let migration = dev.guest.v1()?;
    migration.set_state(v1::State::PRE_COPY)?;
    dev.bar.write_u32(FAIL, 1)?;
    assert_eq!(migration.state()?, v1::State::ERROR);
    assert_eq!(migration.pending_bytes()?, 0);
    dev.guest.device.reset()?;
    assert_eq!(migration.state()?, v1::State::RUNNING);
    dev.work()
}

fn failing_work_does_no_more(env: &Env) -> Result {
    let _module = Sample::load(env, "variants")?;
    let dev = Variant::new(env, ALL.name)?;
    dev.work()?;
    let before = dev.bar.read_u32(WORK)?;
    dev.bar.write_u32(FAIL, 1)?;
    for _ in 0..10 {
        dev.bar.write_u32(WORK, 0)?;
    }
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(dev.bar.read_u32(WORK)?, before);
    Ok(())
}

fn two_drivers_of_one_module(env: &Env) -> Result {
    let _module = Sample::load(env, "variants")?;
    let dev = Variant::new(env, ALL.name)?;
    let other = env.open("variants_other-1")?;
    other.device.config()?.set_command(1)?;
    let bar = other.region(0)?;
    assert_eq!(bar.info().size, 4);
    bar.write_u32(0, 5)?;
    dev.bar.write_u32(VALUE, 6)?;
    assert_eq!((bar.read_u32(0)?, dev.bar.read_u32(VALUE)?), (5, 6));
    dev.guest.device.reset()?;
    assert_eq!((bar.read_u32(0)?, dev.bar.read_u32(VALUE)?), (5, 0));
    // The stream of one kind is not for the other.
    let stream = dev.guest.save()?;
    let file = other.begin(State::RESUMING)?;
    assert_errno!(file.write_all(&stream), EINVAL);
    Ok(())
}

fn p49_the_state_of_an_older_version_is_loaded(env: &Env) -> Result {
    let _module = Sample::load(env, "variants")?;
    let dev = Variant::new(env, ALL.name)?;
    let stream = dev.guest.save()?;
    let now = Stream::parse(&stream).expect("a stream");
    // Offset of the version in an identity, and of the size of the state.
    let (version, size) = (32, 52);
    for (older, length, accepted) in [(2, 4, true), (2, 8, false), (1, 4, false), (4, 9, false)] {
        let mut stream = now.clone();
        let identity = &mut stream.records[0].payload;
        identity[version] = older;
        identity[size] = length;
        let at = stream.position(Kind::Device);
        let mut state = vec![0; length.into()];
        state[0] = 77;
        stream.records[at] = Record::new(Kind::Device as u16, 0, state);
        stream.seal();
        let target = Variant::new(env, ALL.name)?;
        let migration = target.guest.v2()?;
        let file = target.guest.begin(State::RESUMING)?;
        let loaded = file.write_all(&stream.bytes());
        if accepted {
            loaded?;
            migration.set_state(State::RUNNING)?;
            assert_eq!(target.bar.read_u32(VALUE)?, 77);
            target.work()?;
        } else {
            assert_errno!(loaded, EINVAL, "version {older} with {length} bytes");
        }
    }
    Ok(())
}
