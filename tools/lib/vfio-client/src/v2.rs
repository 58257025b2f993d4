// SPDX-License-Identifier: GPL-2.0

//! Migration protocol v2: `VFIO_DEVICE_FEATURE_MIGRATION` and the data descriptor.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::PollFlags;
use vfio_bindings::bindings::vfio::{
    vfio_device_mig_state_VFIO_DEVICE_STATE_ERROR as ERROR,
    vfio_device_mig_state_VFIO_DEVICE_STATE_PRE_COPY as PRE_COPY,
    vfio_device_mig_state_VFIO_DEVICE_STATE_PRE_COPY_P2P as PRE_COPY_P2P,
    vfio_device_mig_state_VFIO_DEVICE_STATE_RESUMING as RESUMING,
    vfio_device_mig_state_VFIO_DEVICE_STATE_RUNNING as RUNNING,
    vfio_device_mig_state_VFIO_DEVICE_STATE_RUNNING_P2P as RUNNING_P2P,
    vfio_device_mig_state_VFIO_DEVICE_STATE_STOP as STOP,
    vfio_device_mig_state_VFIO_DEVICE_STATE_STOP_COPY as STOP_COPY, VFIO_DEVICE_FEATURE_MIGRATION,
    VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, VFIO_MIGRATION_P2P,
    VFIO_MIGRATION_PRE_COPY, VFIO_MIGRATION_STOP_COPY,
};

use crate::caps::{read_u32, read_u64};
use crate::device::Device;
use crate::error::{Context, Error, Result};
use crate::eventfd::poll_fd;
use crate::mapping::Mapping;
use crate::mapping_io;
use crate::sys;

/// `enum vfio_device_mig_state` (P38).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct State(pub u32);

impl State {
    /// Only a reset leaves it.
    pub const ERROR: State = State(ERROR);
    /// Not running.
    pub const STOP: State = State(STOP);
    /// The default.
    pub const RUNNING: State = State(RUNNING);
    /// Stopped, while its state is read.
    pub const STOP_COPY: State = State(STOP_COPY);
    /// Stopped, while its state is written.
    pub const RESUMING: State = State(RESUMING);
    /// Running, without DMA to other devices.
    pub const RUNNING_P2P: State = State(RUNNING_P2P);
    /// Running, while its state is read.
    pub const PRE_COPY: State = State(PRE_COPY);
    /// PRE_COPY and RUNNING_P2P together.
    pub const PRE_COPY_P2P: State = State(PRE_COPY_P2P);

    /// All states, in numerical order.
    pub const ALL: [State; 8] = [
        State(0),
        State(1),
        State(2),
        State(3),
        State(4),
        State(5),
        State(6),
        State(7),
    ];

    /// Returns the name of a valid state.
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            State::ERROR => "ERROR",
            State::STOP => "STOP",
            State::RUNNING => "RUNNING",
            State::STOP_COPY => "STOP_COPY",
            State::RESUMING => "RESUMING",
            State::RUNNING_P2P => "RUNNING_P2P",
            State::PRE_COPY => "PRE_COPY",
            State::PRE_COPY_P2P => "PRE_COPY_P2P",
            _ => return None,
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Result of `VFIO_MIG_GET_PRECOPY_INFO` (P45).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrecopyInfo {
    /// `flags`.
    pub flags: u32,
    /// Initial data that is not read yet.
    pub initial_bytes: u64,
    /// Data changed since it was read.
    pub dirty_bytes: u64,
}

/// The migration feature of an opened device.
#[derive(Clone, Debug)]
pub struct Migration {
    device: Device,
    flags: u64,
}

impl Device {
    /// Returns the migration feature of protocol v2, if the device has it.
    pub fn migration_v2(&self) -> Result<Option<Migration>> {
        Migration::find(self)
    }
}

impl Migration {
    /// Queries the device for the feature.
    pub fn find(device: &Device) -> Result<Option<Self>> {
        let mut data = [0; 8];
        match device.feature_get(VFIO_DEVICE_FEATURE_MIGRATION, &mut data) {
            Ok(()) => Ok(Some(Migration {
                device: device.clone(),
                flags: u64::from_ne_bytes(data),
            })),
            Err(e) if e.is(libc::ENOTTY) => Ok(None),
            Err(e) => Err(Error::new("VFIO_DEVICE_FEATURE_MIGRATION", e.source)),
        }
    }

    /// Returns `flags`, which name the supported states.
    pub fn flags(&self) -> u64 {
        self.flags
    }

    /// `VFIO_MIGRATION_STOP_COPY`.
    pub fn has_stop_copy(&self) -> bool {
        self.flags & u64::from(VFIO_MIGRATION_STOP_COPY) != 0
    }

    /// `VFIO_MIGRATION_P2P`.
    pub fn has_p2p(&self) -> bool {
        self.flags & u64::from(VFIO_MIGRATION_P2P) != 0
    }

    /// `VFIO_MIGRATION_PRE_COPY`.
    pub fn has_pre_copy(&self) -> bool {
        self.flags & u64::from(VFIO_MIGRATION_PRE_COPY) != 0
    }

    /// Reads the state.
    pub fn state(&self) -> Result<State> {
        let mut data = [0; 8];
        self.device
            .feature_get(VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, &mut data)
            .map_err(|e| Error::new("MIG_DEVICE_STATE", e.source))?;
        Ok(State(read_u32(&data, 0).unwrap()))
    }

    /// Changes the state. Returns the data descriptor if the transition makes one (P43).
    pub fn set_state(&self, state: State) -> Result<Option<DataFd>> {
        sys::set_mig_state(self.device.as_fd(), state.0)
            .map(|fd| fd.map(DataFd))
            .field(|| format!("MIG_DEVICE_STATE ← {state}"))
    }

    /// `MIG_DATA_SIZE`: the bytes that an immediate stop and copy would take (P47).
    pub fn data_size(&self) -> Result<u64> {
        let mut data = [0; 8];
        self.device
            .feature_get(VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, &mut data)
            .map_err(|e| Error::new("MIG_DATA_SIZE", e.source))?;
        Ok(u64::from_ne_bytes(data))
    }
}

/// The data descriptor, which the state stream is read from or written to.
#[derive(Debug)]
pub struct DataFd(OwnedFd);

impl DataFd {
    /// Reads once and returns the result unchanged: 0 at the end, `ENOMSG` at the present end (P46).
    pub fn read(&self, out: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, out)?)
    }

    /// Writes once and returns the result unchanged.
    pub fn write(&self, data: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.0, data)?)
    }

    /// Writes all of `data`.
    pub fn write_all(&self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            match self.write(data) {
                Ok(0) => return Err(Error::new("data_fd write", io::ErrorKind::WriteZero)),
                Ok(n) => data = &data[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::new("data_fd write", e)),
            }
        }
        Ok(())
    }

    /// Reads to the end in stop-copy, or to the present end in pre-copy. Appends to `out` and returns the number of
    /// bytes.
    pub fn read_available(&self, out: &mut Vec<u8>) -> Result<usize> {
        const STEP: usize = 1 << 20;
        let start = out.len();
        loop {
            let at = out.len();
            out.resize(at + STEP, 0);
            let result = self.read(&mut out[at..]);
            out.truncate(at + *result.as_ref().unwrap_or(&0));
            match result {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOMSG) => break,
                Err(e) => return Err(Error::new("data_fd read", e)),
            }
        }
        Ok(out.len() - start)
    }

    /// `VFIO_MIG_GET_PRECOPY_INFO`.
    pub fn precopy_info(&self) -> Result<PrecopyInfo> {
        let mut arg = [0; 24];
        arg[0..4].copy_from_slice(&24u32.to_ne_bytes());
        sys::ioctl(self.as_fd(), sys::nr(21), &mut arg)
            .field(|| "VFIO_MIG_GET_PRECOPY_INFO".into())?;
        Ok(PrecopyInfo {
            flags: read_u32(&arg, 4).unwrap(),
            initial_bytes: read_u64(&arg, 8).unwrap(),
            dirty_bytes: read_u64(&arg, 16).unwrap(),
        })
    }

    /// Calls `VFIO_MIG_GET_PRECOPY_INFO` several times, for measurements.
    pub fn repeat_precopy_info(&self, times: u64) -> Result<()> {
        let mut arg = [0; 24];
        arg[0..4].copy_from_slice(&24u32.to_ne_bytes());
        sys::ioctl_times(self.as_fd(), sys::nr(21), &mut arg, times)
            .field(|| "VFIO_MIG_GET_PRECOPY_INFO".into())
    }

    /// Waits until it is readable or has an error; false after the timeout.
    pub fn wait_readable(&self, timeout: Duration) -> io::Result<bool> {
        Ok(!poll_fd(self.as_fd(), PollFlags::IN, timeout)?.is_empty())
    }

    /// Waits for any of these events, as `poll()` does; empty after the timeout.
    pub fn poll(&self, events: PollFlags, timeout: Duration) -> io::Result<PollFlags> {
        poll_fd(self.as_fd(), events, timeout)
    }

    /// [`read`](Self::read) into a mapping, possibly of the same device.
    pub fn read_mapping(&self, memory: &Mapping, at: usize, len: usize) -> io::Result<usize> {
        mapping_io::read(self.as_fd(), memory, at, len)
    }

    /// [`write`](Self::write) from a mapping, possibly of the same device.
    pub fn write_mapping(&self, memory: &Mapping, at: usize, len: usize) -> io::Result<usize> {
        mapping_io::write(self.as_fd(), memory, at, len)
    }

    /// Duplicates the descriptor.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(DataFd)
    }

    /// Makes any ioctl with the bytes as given; see [`crate::raw`].
    pub fn raw_ioctl(&self, request: u32, argument: &mut [u8]) -> Result<i32> {
        sys::ioctl(self.as_fd(), request, argument).field(|| format!("ioctl {request:#x}"))
    }
}

impl AsFd for DataFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
