// SPDX-License-Identifier: GPL-2.0

//! The two ends of a migration, by any protocol.
//!
//! ```text
//!               Source                              Destination
//! v1    running → pre-copy → stop-and-copy → stop   running → resuming → stop → running
//! v7    as v1                                       as v1
//! v2    RUNNING → PRE_COPY → STOP_COPY → STOP       RUNNING → RESUMING → STOP → RUNNING
//! 2018  RUNNING → SETUP → PRECOPY → STOPNCOPY       RUNNING → RESUME → RESUME_COMPLETED
//!         → SAVE_COMPLETED                            → RUNNING
//! ```

use serde::Serialize;
use vfio_client::{errno, v1, v2, v2018, v7, Device, Error};

use crate::error::{Failure, Kind, Result};

/// How the device is driven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// v1 if the device has it, else v2, v7, 2018.
    #[default]
    Auto,
    /// The migration region.
    V1,
    /// The migration feature and its data descriptor.
    V2,
    /// The migration region of July 2019.
    V7,
    /// The migration region of November 2018.
    #[serde(rename = "2018")]
    V2018,
}

#[derive(Debug)]
enum End {
    V1(v1::Migration),
    V7(v7::Migration),
    V2018(v2018::Migration),
    V2 {
        migration: v2::Migration,
        data: Option<v2::DataFd>,
    },
}

/// A change of state, in the words of v1.
#[derive(Clone, Copy)]
enum Step {
    PreCopy,
    /// From the running state, or from pre-copy.
    StopAndCopy {
        precopy: bool,
    },
    Saved,
    Resuming,
    Loaded,
    Running,
}

impl Step {
    /// Returns the states to write, by protocol.
    fn states(self) -> (v1::State, v2::State, &'static [v2018::State]) {
        use v2018::State as Old;
        let (v1, v2): (v1::State, v2::State) = match self {
            Step::PreCopy => (v1::State::PRE_COPY, v2::State::PRE_COPY),
            Step::StopAndCopy { .. } => (v1::State::STOP_AND_COPY, v2::State::STOP_COPY),
            Step::Saved | Step::Loaded => (v1::State::STOP, v2::State::STOP),
            Step::Resuming => (v1::State::RESUMING, v2::State::RESUMING),
            Step::Running => (v1::State::RUNNING, v2::State::RUNNING),
        };
        let v2018: &[Old] = match self {
            Step::PreCopy => &[Old::SETUP, Old::PRECOPY],
            Step::StopAndCopy { precopy: true } => &[Old::STOPNCOPY],
            Step::StopAndCopy { precopy: false } => &[Old::SETUP, Old::STOPNCOPY],
            Step::Saved => &[Old::SAVE_COMPLETED],
            Step::Resuming => &[Old::RESUME],
            Step::Loaded => &[Old::RESUME_COMPLETED],
            Step::Running => &[Old::RUNNING],
        };
        (v1, v2, v2018)
    }
}

/// Size of reads and writes of a v2 data descriptor.
const STEP: usize = 1 << 20;

impl End {
    fn new(device: &Device, protocol: Protocol, access: Option<v1::Access>) -> Result<Self> {
        let wanted = |one| protocol == one || protocol == Protocol::Auto;
        if wanted(Protocol::V1) {
            if let Some(mut migration) = device.migration_v1()? {
                access.map_or(Ok(()), |access| migration.set_access(access))?;
                return Ok(End::V1(migration));
            }
        }
        if wanted(Protocol::V2) {
            if let Some(migration) = device.migration_v2()? {
                if migration.has_stop_copy() {
                    return Ok(End::V2 {
                        migration,
                        data: None,
                    });
                }
            }
        }
        if wanted(Protocol::V7) {
            if let Some(mut migration) = device.migration_v7()? {
                access.map_or(Ok(()), |access| migration.set_access(access))?;
                return Ok(End::V7(migration));
            }
        }
        if wanted(Protocol::V2018) {
            if let Some(mut migration) = device.migration_2018()? {
                access.map_or(Ok(()), |access| migration.set_access(access))?;
                return Ok(End::V2018(migration));
            }
        }
        let why = match protocol {
            Protocol::Auto => "it has neither a migration region nor the migration feature",
            Protocol::V1 => "it has no migration region",
            Protocol::V2 => "it has no migration feature",
            Protocol::V7 => "it has no migration region of v7",
            Protocol::V2018 => "it has no migration region of 2018",
        };
        let error = Error::not_found(format!("device {}", device.name()), why);
        Err(Failure::new(Kind::NotMigratable, error))
    }

    fn set(&mut self, step: Step) -> vfio_client::Result<()> {
        let (v1, v2, v2018) = step.states();
        match self {
            End::V1(migration) => migration.set_state(v1),
            End::V7(migration) => migration.set_state(v1),
            End::V2018(migration) => v2018.iter().try_for_each(|to| migration.set_state(*to)),
            End::V2 { migration, data } => {
                if let Some(fd) = migration.set_state(v2)? {
                    *data = Some(fd);
                }
                Ok(())
            }
        }
    }

    fn protocol(&self) -> Protocol {
        match self {
            End::V1(_) => Protocol::V1,
            End::V7(_) => Protocol::V7,
            End::V2018(_) => Protocol::V2018,
            End::V2 { .. } => Protocol::V2,
        }
    }

    fn state(&self) -> vfio_client::Result<String> {
        Ok(match self {
            End::V1(migration) => migration.state()?.to_string(),
            End::V7(migration) => migration.state()?.to_string(),
            End::V2018(migration) => migration.state()?.to_string(),
            End::V2 { migration, .. } => migration.state()?.to_string(),
        })
    }
}

/// The device being saved.
#[derive(Debug)]
pub struct Source {
    device: Device,
    end: End,
    running: bool,
    precopy: bool,
}

impl Source {
    /// Takes over an opened device.
    pub fn new(device: &Device, protocol: Protocol, access: Option<v1::Access>) -> Result<Self> {
        Ok(Source {
            end: End::new(device, protocol, access)?,
            device: device.clone(),
            running: true,
            precopy: false,
        })
    }

    /// Returns the device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the protocol in use, never `Auto`.
    pub fn protocol(&self) -> Protocol {
        self.end.protocol()
    }

    /// Returns the name of its state.
    pub fn state(&self) -> Result<String> {
        Ok(self.end.state()?)
    }

    /// Returns whether it can be saved while it runs.
    pub fn has_pre_copy(&self) -> bool {
        match &self.end {
            End::V1(_) | End::V7(_) | End::V2018(_) => true,
            End::V2 { migration, .. } => migration.has_pre_copy(),
        }
    }

    /// Begins a save while the device runs.
    pub fn pre_copy(&mut self) -> Result<()> {
        let result = self.end.set(Step::PreCopy);
        self.precopy = true;
        result.map_err(|e| e.during("begin pre-copy").into())
    }

    /// Stops the device to save the rest.
    pub fn stop_and_copy(&mut self) -> Result<()> {
        let result = self.end.set(Step::StopAndCopy {
            precopy: self.precopy,
        });
        self.running = false;
        result.map_err(|e| e.during("stop the source").into())
    }

    /// Returns the bytes left to send if the device stopped now.
    pub fn pending(&self) -> Result<u64> {
        let pending = match &self.end {
            End::V1(migration) => migration.pending_bytes(),
            End::V7(migration) => migration.pending_bytes(),
            End::V2018(migration) => migration.pending(0).map(|pending| pending.sum()),
            End::V2 {
                data: Some(data), ..
            } if self.running => data
                .precopy_info()
                .map(|info| info.initial_bytes.saturating_add(info.dirty_bytes)),
            End::V2 { migration, .. } => migration.data_size(),
        };
        pending.map_err(|e| e.during("save").into())
    }

    /// Replaces `out` with the next buffer; returns false if there is none now.
    pub fn next(&mut self, out: &mut Vec<u8>) -> Result<bool> {
        let result = match &self.end {
            End::V1(migration) => migration.pending_bytes().and_then(|pending| {
                out.clear();
                match pending {
                    0 => Ok(()),
                    _ => migration.save_buffer(out),
                }
            }),
            End::V7(migration) => migration.pending_bytes().and_then(|pending| {
                out.clear();
                match pending {
                    0 => Ok(()),
                    _ => migration.save_buffer(out),
                }
            }),
            End::V2018(migration) => migration.pending(0).and_then(|pending| {
                out.clear();
                match pending.sum() {
                    0 => Ok(()),
                    _ => migration.save_buffer(out),
                }
            }),
            End::V2 { data: None, .. } => Err(Error::other("data_fd", "the device returned none")),
            End::V2 {
                data: Some(data), ..
            } => {
                out.resize(STEP, 0);
                match data.read(out) {
                    Ok(n) => {
                        out.truncate(n);
                        Ok(())
                    }
                    Err(e) if e.raw_os_error() == Some(errno::ENOMSG) => {
                        out.clear();
                        Ok(())
                    }
                    Err(e) => Err(Error::new("data_fd read", e)),
                }
            }
        };
        result.map_err(|e| e.during("save"))?;
        Ok(!out.is_empty())
    }

    /// Ends the save of a stopped device.
    pub fn end(&mut self) -> Result<()> {
        let result = self.end.set(Step::Saved);
        result.map_err(|e| e.during("end the save").into())
    }

    /// Lets the device run again, after a save or a failure.
    pub fn run(&mut self) -> Result<()> {
        let result = self.end.set(Step::Running);
        result.map_err(|e| Failure::from(e.during("restart the source")))?;
        self.running = true;
        self.precopy = false;
        Ok(())
    }
}

/// The device being loaded.
#[derive(Debug)]
pub struct Destination {
    device: Device,
    end: End,
}

impl Destination {
    /// Takes over an opened device.
    pub fn new(device: &Device, protocol: Protocol, access: Option<v1::Access>) -> Result<Self> {
        Ok(Destination {
            end: End::new(device, protocol, access)?,
            device: device.clone(),
        })
    }

    /// Returns the device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the protocol in use, never `Auto`.
    pub fn protocol(&self) -> Protocol {
        self.end.protocol()
    }

    /// Returns the name of its state.
    pub fn state(&self) -> Result<String> {
        Ok(self.end.state()?)
    }

    /// Prepares it for the stream.
    pub fn resume(&mut self) -> Result<()> {
        let result = self.end.set(Step::Resuming);
        result.map_err(|e| e.during("begin to load").into())
    }

    /// Loads the next bytes of the stream.
    pub fn load(&mut self, bytes: &[u8]) -> Result<()> {
        let result = match &self.end {
            End::V1(migration) => migration.load_buffer(bytes),
            End::V7(migration) => migration.load_buffer(bytes),
            End::V2018(migration) => migration.load_buffer(bytes),
            End::V2 { data: None, .. } => Err(Error::other("data_fd", "the device returned none")),
            End::V2 {
                data: Some(data), ..
            } => data.write_all(bytes),
        };
        result.map_err(|e| Failure::new(Kind::Refused, e.during("load")))
    }

    /// Ends the load: the device adopts the loaded state and stays stopped.
    pub fn finish(&mut self) -> Result<()> {
        let result = self.end.set(Step::Loaded);
        result.map_err(|e| Failure::new(Kind::Refused, e.during("end the load")))
    }

    /// Ends the load and runs the device, by v1 in one step as a VMM does.
    pub fn run(&mut self) -> Result<()> {
        let result = self.end.set(Step::Running);
        result.map_err(|e| Failure::new(Kind::Refused, e.during("run the destination")))
    }

    /// Discards the loaded state with a reset, after which the device runs.
    pub fn abandon(&mut self) -> Result<()> {
        self.device
            .reset()
            .map_err(|e| e.during("reset the destination").into())
    }
}
