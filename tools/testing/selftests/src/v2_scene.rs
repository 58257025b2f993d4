// SPDX-License-Identifier: GPL-2.0

//! An opened device that is migrated by v2.

use std::ops::Deref;

use vfio_client::v1;
use vfio_client::v2::{DataFd, Migration, State};

use crate::assert_errno;
use crate::lab::{Guest, Lab};
use crate::outcome::Outcome;
use crate::scene::{Scene, PAGE};

/// What v1 reads in a state of v2.
pub(crate) fn v1_state(state: State) -> v1::State {
    v1::State(match state {
        State::STOP => 0b000,
        State::RUNNING | State::RUNNING_P2P => 0b001,
        State::STOP_COPY => 0b010,
        State::PRE_COPY | State::PRE_COPY_P2P => 0b011,
        State::RESUMING => 0b100,
        _ => 0b110,
    })
}

/// An opened device with its v2 feature. What is made from it has to be dropped before it is.
pub(crate) struct V2 {
    // Dropped in this order.
    /// The feature.
    pub(crate) feature: Migration,
    /// The rest.
    pub(crate) scene: Scene,
}

impl Deref for V2 {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.scene
    }
}

impl V2 {
    /// A new instance of the smallest type.
    pub(crate) fn new(lab: &Lab) -> Outcome<Self> {
        Self::of(Scene::new(lab)?)
    }

    /// Takes over a device that is open.
    pub(crate) fn of(scene: Scene) -> Outcome<Self> {
        let Some(feature) = scene.device.migration_v2()? else {
            crate::fail!("the device has no migration feature");
        };
        Ok(V2 { feature, scene })
    }

    /// Closes the device and opens it again.
    pub(crate) fn reopen(self) -> Outcome<Self> {
        let V2 { feature, scene } = self;
        drop(feature);
        Self::of(Scene::of(Guest::open(scene.close())?)?)
    }

    /// The state.
    pub(crate) fn now(&self) -> Outcome<State> {
        Ok(self.feature.state()?)
    }

    /// Changes the state, which must not make a data descriptor.
    pub(crate) fn to(&self, state: State) -> Outcome {
        match self.feature.set_state(state)? {
            None => Ok(()),
            Some(_) => crate::fail!("a data descriptor came with {state}"),
        }
    }

    /// Changes the state, which must make a data descriptor.
    pub(crate) fn begin(&self, state: State) -> Outcome<DataFd> {
        match self.feature.set_state(state)? {
            Some(fd) => Ok(fd),
            None => crate::fail!("no data descriptor came with {state}"),
        }
    }

    /// Brings a running device into a state. The error state is what a load without data ends in.
    pub(crate) fn reach(&self, state: State) -> Outcome<Option<DataFd>> {
        if state == State::ERROR {
            let fd = self.begin(State::RESUMING)?;
            assert_errno!(self.feature.set_state(State::STOP), ENODATA);
            drop(fd);
            assert_eq!(self.now()?, State::ERROR);
            return Ok(None);
        }
        let fd = self.feature.set_state(state)?;
        assert_eq!(self.now()?, state);
        Ok(fd)
    }

    /// Saves the device without pre-copy, from the running or stopped state, and leaves it stopped.
    pub(crate) fn save_v2(&self) -> Outcome<Vec<u8>> {
        let fd = self.begin(State::STOP_COPY)?;
        let mut bytes = Vec::new();
        fd.read_available(&mut bytes)?;
        self.to(State::STOP)?;
        Ok(bytes)
    }

    /// Loads a saved device from the running or stopped state, and leaves it running.
    pub(crate) fn load_v2(&self, bytes: &[u8]) -> Outcome {
        self.begin(State::RESUMING)?.write_all(bytes)?;
        self.to(State::RUNNING)
    }

    /// Resets the device, which runs then.
    pub(crate) fn reset(&self) -> Outcome {
        self.device.reset()?;
        assert_eq!(self.now()?, State::RUNNING);
        Ok(())
    }

    /// Writes a value to whole pages of device memory.
    pub(crate) fn write_pages(&self, pages: impl IntoIterator<Item = u64>, value: u8) -> Outcome {
        for page in pages {
            self.write_memory(page * PAGE, &[value; PAGE as usize])?;
        }
        Ok(())
    }
}

/// Reads to the end, or to the end for now, in pieces of at most these sizes, one after the other and around again.
pub(crate) fn read_pieces(fd: &DataFd, sizes: &[usize], out: &mut Vec<u8>) -> Outcome<usize> {
    let mut total = 0;
    for size in sizes.iter().cycle() {
        let mut piece = vec![0; *size];
        match fd.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => {
                out.extend_from_slice(&piece[..n]);
                total += n;
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOMSG) => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(total)
}

/// Checks that the session of a descriptor is over: errors, never data, and nobody waits on it.
#[track_caller]
pub(crate) fn expect_over(fd: &DataFd, when: &str) {
    let mut byte = [0x5a; 64];
    let read = fd.read(&mut byte);
    let write = fd.write(&byte);
    // One of them is not what the descriptor was opened for.
    for (result, what) in [(read, "read"), (write, "write")] {
        match result.as_ref().map_err(std::io::Error::raw_os_error) {
            Err(Some(libc::ENODEV | libc::EBADF)) => {}
            _ => panic!("{when}: {what} of a session that is over: {result:?}"),
        }
    }
    assert_eq!(byte, [0x5a; 64], "{when}: data of a session that is over");
    let ready = fd.wait_readable(crate::check::PATIENCE).expect("poll");
    assert!(ready, "{when}: poll waits for a session that is over");
    assert_errno!(fd.precopy_info(), EINVAL, "{when}");
}

/// Checks that the session of a descriptor is not over.
#[track_caller]
pub(crate) fn expect_alive(fd: &DataFd, when: &str) {
    let mut none = [0; 1];
    match fd.read(&mut none) {
        Ok(_) => {}
        Err(e) if e.raw_os_error() == Some(libc::ENOMSG) => {}
        Err(e) => panic!("{when}: the session is over: {e}"),
    }
}
