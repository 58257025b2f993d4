// SPDX-License-Identifier: GPL-2.0

//! Fault injection while a device is saved or loaded through either protocol.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use vfio_client::v1;
use vfio_client::v2::{DataFd, State};

use crate::env::Env;
use crate::fail_nth::device::usable;
use crate::fail_nth::sweep::{done, Sweep, SHORT};
use crate::fixture::v2::MdmaV2;
use crate::harness::result::{Ended, Result};
use crate::tests;

tests! { "fail_nth" needs [Mdma, FaultInjection]:
    v1_states [],
    v1_saving [],
    v1_loading [],
    v2_arcs [],
    v2_saving [],
    v2_loading [],
}

/// Returns a device with a few populated pages.
fn filled(env: &Env) -> Result<MdmaV2> {
    let dev = MdmaV2::new(env)?;
    dev.write_pages([1, 2, 700], 0x5a)?;
    Ok(dev)
}

/// Resets the device and writes the same contents again.
fn renew(dev: &MdmaV2) -> Result {
    dev.reset()?;
    dev.write_pages([1, 2, 700], 0x5a)
}

fn v1_states(env: &Env) -> Result {
    use v1::State as S;
    let dev = filled(env)?;
    let mut sweep = Sweep::new()?;
    let saved = dev.save()?;
    dev.go(&[S::RUNNING])?;
    for path in [
        &[S::RUNNING, S::STOP][..],
        &[S::RUNNING, S::PRE_COPY],
        &[S::RUNNING, S::STOP_AND_COPY],
        &[S::RUNNING, S::RESUMING],
        &[S::STOP, S::RUNNING],
        &[S::STOP, S::STOP_AND_COPY],
        &[S::STOP, S::RESUMING],
        &[S::PRE_COPY, S::STOP_AND_COPY],
        &[S::PRE_COPY, S::RUNNING],
        &[S::PRE_COPY, S::STOP],
        &[S::STOP_AND_COPY, S::STOP],
        &[S::STOP_AND_COPY, S::RUNNING],
    ] {
        let [from, to] = path else { unreachable!() };
        let name = format!("device_state {:03b} to {:03b}", from.0, to.0);
        sweep.over(
            &name,
            SHORT,
            || {
                renew(&dev)?;
                if *from == S::RUNNING {
                    return Ok(());
                }
                dev.go(&[*from])
            },
            || dev.migration.write_state(*to),
            || {
                assert_eq!(dev.state()?, *to);
                usable(&dev)
            },
        )?;
    }
    // At the end of a load, a failed change leads to the error state or keeps the old state.
    for to in [S::RUNNING, S::STOP] {
        sweep.over_each(
            &format!("device_state 100 to {:03b}, loaded", to.0),
            SHORT,
            || {
                renew(&dev)?;
                dev.go(&[S::RESUMING])?;
                dev.feed(&saved, dev.section())
            },
            |()| dev.migration.write_state(to),
            |(), refused| {
                let state = dev.state()?;
                match refused {
                    None => assert_eq!(state, to),
                    Some(_) => assert!(state == S::ERROR || state == S::RESUMING, "{state}"),
                }
                if state == S::ERROR {
                    dev.reset()?;
                }
                usable(&dev)
            },
        )?;
    }
    usable(&dev)?;
    sweep.finish()
}

fn v1_saving(env: &Env) -> Result {
    use v1::State as S;
    let dev = filled(env)?;
    let mut sweep = Sweep::new()?;
    let migration = &dev.migration;
    let nothing = || Ok(());
    let section = dev.section();
    let mut bytes = vec![0; section];
    // Test both saving states.
    for from in [S::PRE_COPY, S::STOP_AND_COPY] {
        let begin = || {
            renew(&dev)?;
            dev.go(&[from])
        };
        let after = || usable(&dev);
        let name = |what: &str| format!("{what}, state {:03b}", from.0);
        sweep.over(
            &name("device_state"),
            SHORT,
            begin,
            || migration.state(),
            after,
        )?;
        sweep.over(
            &name("pending_bytes"),
            SHORT,
            begin,
            || migration.pending_bytes(),
            after,
        )?;
        let pending = || {
            begin()?;
            assert!(migration.pending_bytes()? > 0);
            Ok(())
        };
        sweep.over(
            &name("data_offset, which stages"),
            SHORT,
            pending,
            || migration.data_offset(),
            after,
        )?;
        let staged = || {
            pending()?;
            migration.data_offset()?;
            Ok(())
        };
        sweep.over(
            &name("data_size"),
            SHORT,
            staged,
            || migration.data_size(),
            after,
        )?;
        sweep.over(
            &name("pending_bytes, which consumes"),
            SHORT,
            staged,
            || migration.pending_bytes(),
            after,
        )?;
        let at = dev.data_offset();
        sweep.over(
            &name("read the data section"),
            SHORT,
            staged,
            || {
                let len = 4096;
                done(migration.region().pread(at, &mut bytes[..len]), len)
            },
            after,
        )?;
    }
    sweep.over(
        "a buffer saved, in all",
        SHORT,
        || {
            renew(&dev)?;
            dev.go(&[S::STOP_AND_COPY])
        },
        || {
            migration.pending_bytes()?;
            let at = migration.data_offset()?;
            let size = migration.data_size()? as usize;
            migration.region().read(at, &mut bytes[..size])
        },
        nothing,
    )?;
    renew(&dev)?;
    usable(&dev)?;
    sweep.finish()
}

fn v1_loading(env: &Env) -> Result {
    use v1::State as S;
    let dev = filled(env)?;
    let mut sweep = Sweep::new()?;
    let saved = dev.save()?;
    let migration = &dev.migration;
    let at = dev.data_offset();
    let part = &saved[..saved.len().min(8192)];
    let begin = || {
        renew(&dev)?;
        dev.go(&[S::RESUMING])
    };
    let after = || usable(&dev);
    sweep.over(
        "data_offset, state 100",
        SHORT,
        begin,
        || migration.data_offset(),
        after,
    )?;
    sweep.over(
        "write the data section",
        SHORT,
        begin,
        || done(migration.region().pwrite(at, part), part.len()),
        after,
    )?;
    // Load the first part of the stream, which allocates pages. A failed load must restart, because the device may
    // have accepted some of the data.
    sweep.over_each(
        "data_size, which loads",
        SHORT,
        || {
            begin()?;
            Ok(migration
                .region()
                .write(at, &saved[..saved.len().min(dev.section())])?)
        },
        |()| migration.write_data_size(saved.len().min(dev.section()) as u64),
        |(), refused| {
            if refused.is_some() {
                begin()?;
                dev.feed(&saved, dev.section())?;
            }
            dev.go(&[S::RUNNING])?;
            assert_eq!(dev.read_memory(4096, 4096)?, [0x5a; 4096]);
            usable(&dev)
        },
    )?;
    usable(&dev)?;
    sweep.finish()
}

/// The direct arcs except the end of a load.
const ARCS: [(State, State); 14] = [
    (State::RUNNING, State::RUNNING_P2P),
    (State::RUNNING_P2P, State::RUNNING),
    (State::RUNNING_P2P, State::STOP),
    (State::STOP, State::RUNNING_P2P),
    (State::STOP, State::STOP_COPY),
    (State::STOP_COPY, State::STOP),
    (State::STOP, State::RESUMING),
    (State::RUNNING, State::PRE_COPY),
    (State::PRE_COPY, State::RUNNING),
    (State::PRE_COPY, State::PRE_COPY_P2P),
    (State::PRE_COPY_P2P, State::PRE_COPY),
    (State::RUNNING_P2P, State::PRE_COPY_P2P),
    (State::PRE_COPY_P2P, State::RUNNING_P2P),
    (State::PRE_COPY_P2P, State::STOP_COPY),
];

fn v2_arcs(env: &Env) -> Result {
    let dev = filled(env)?;
    let saved = dev.save_v2()?;
    let mut sweep = Sweep::new()?;
    // Keep the data file open, because its close ends the session.
    let held = RefCell::new(None);
    for (from, to) in ARCS {
        sweep.over(
            &format!("MIG_DEVICE_STATE {from} to {to}"),
            SHORT,
            || {
                renew(&dev)?;
                *held.borrow_mut() = dev.reach(from)?;
                Ok(())
            },
            || dev.feature.set_state(to),
            || {
                assert_eq!(dev.now()?, to);
                usable(&dev)
            },
        )?;
    }
    sweep.over_each(
        "MIG_DEVICE_STATE RESUMING to STOP, loaded",
        SHORT,
        || {
            renew(&dev)?;
            let fd = dev.begin(State::RESUMING)?;
            fd.write_all(&saved)?;
            *held.borrow_mut() = Some(fd);
            Ok(())
        },
        |()| dev.feature.set_state(State::STOP),
        |(), refused| {
            match (refused, dev.now()?) {
                (None, State::STOP) => {}
                // The state changed, but the copy of the result failed.
                (Some(libc::EFAULT), State::STOP) => {}
                (Some(_), State::RESUMING | State::ERROR) => {}
                (_, state) => return Err(Ended::failed(format!("{refused:?}, and {state}"))),
            }
            usable(&dev)
        },
    )?;
    usable(&dev)?;
    sweep.finish()
}

/// Checks the result of a read of a data file. ENOMSG counts as success.
fn told(result: std::io::Result<usize>, all: usize) -> std::io::Result<()> {
    match result {
        Err(e) if e.raw_os_error() == Some(libc::ENOMSG) => Ok(()),
        other => done(other, all),
    }
}

fn v2_saving(env: &Env) -> Result {
    let dev = filled(env)?;
    let mut sweep = Sweep::new()?;
    let held = RefCell::new(None::<DataFd>);
    let mut bytes = vec![0; 1 << 20];
    let len = bytes.len();
    for from in [State::PRE_COPY, State::STOP_COPY] {
        let begin = || {
            renew(&dev)?;
            *held.borrow_mut() = Some(dev.begin(from)?);
            Ok(())
        };
        let with = |f: &mut dyn FnMut(&DataFd) -> std::io::Result<()>| {
            f(held.borrow().as_ref().expect("begun"))
        };
        sweep.over(
            &format!("read the data descriptor, {from}"),
            SHORT,
            begin,
            || with(&mut |fd| told(fd.read(&mut bytes), len)),
            || {
                // Data whose copy to the user failed is not lost.
                let mut rest = Vec::new();
                with(&mut |fd| fd.read_available(&mut rest).map(drop).map_err(|e| e.source))?;
                usable(&dev)
            },
        )?;
        sweep.over(
            &format!("poll the data descriptor, {from}"),
            SHORT,
            begin,
            || with(&mut |fd| fd.wait_readable(Duration::ZERO).map(drop)),
            || usable(&dev),
        )?;
    }
    sweep.over(
        "VFIO_MIG_GET_PRECOPY_INFO",
        SHORT,
        || {
            renew(&dev)?;
            *held.borrow_mut() = Some(dev.begin(State::PRE_COPY)?);
            Ok(())
        },
        || held.borrow().as_ref().expect("begun").precopy_info(),
        || usable(&dev),
    )?;
    // A save with failing reads returns the same stream as a save without.
    renew(&dev)?;
    let expected = dev.save_v2()?;
    renew(&dev)?;
    let fd = dev.begin(State::STOP_COPY)?;
    let mut found = Vec::new();
    let mut n = 1;
    loop {
        match sweep.failing(n, || fd.read(&mut bytes[..8192])).0 {
            Ok(0) => break,
            Ok(read) => {
                found.extend_from_slice(&bytes[..read]);
                n = 1;
            }
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOMEM | libc::EFAULT)) => n += 1,
            Err(e) => return Err(e.into()),
        }
    }
    assert_eq!(found.len(), expected.len());
    drop(fd);
    dev.reset()?;
    dev.load_v2(&found)?;
    assert_eq!(dev.read_memory(4096, 4096)?, [0x5a; 4096]);
    usable(&dev)?;
    sweep.finish()
}

fn v2_loading(env: &Env) -> Result {
    let dev = filled(env)?;
    let saved = dev.save_v2()?;
    let mut sweep = Sweep::new()?;
    let held = RefCell::new(None::<DataFd>);
    let taken = Cell::new(0);
    let begin = || {
        renew(&dev)?;
        *held.borrow_mut() = Some(dev.begin(State::RESUMING)?);
        Ok(())
    };
    sweep.over_each(
        "write the data descriptor",
        SHORT,
        begin,
        |()| {
            let held = held.borrow();
            let fd = held.as_ref().expect("begun");
            fd.write(&saved).map(|written| taken.set(written))
        },
        |(), refused| {
            if refused.is_some() {
                begin()?;
                taken.set(0);
            }
            // A fault in the middle of a write ends it early.
            let rest = &saved[taken.get()..];
            held.borrow().as_ref().expect("begun").write_all(rest)?;
            dev.to(State::RUNNING)?;
            assert_eq!(dev.read_memory(4096, 4096)?, [0x5a; 4096]);
            usable(&dev)
        },
    )?;
    sweep.over(
        "poll the data descriptor, RESUMING",
        SHORT,
        begin,
        || {
            let held = held.borrow();
            let fd = held.as_ref().expect("begun");
            fd.poll(rustix::event::PollFlags::OUT, Duration::ZERO)
        },
        || usable(&dev),
    )?;
    usable(&dev)?;
    sweep.finish()
}
