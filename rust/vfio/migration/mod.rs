// SPDX-License-Identifier: GPL-2.0

//! Migration: what a device's state is moved by.
//!
//! | file            | what is in it                                                  |
//! |-----------------|----------------------------------------------------------------|
//! | `state_machine` | the one state of a device, and what a change of it does        |
//! | `endpoint`      | the device as crate `migration` reads and writes it            |
//! | `staging`       | the data section of the v1 region: memory shared with the user |
//! | `v1`            | the v1 region: registers and the data section                  |
//! | `v2`            | the v2 changes of state                                        |
//! | `data_file`     | the files v2 moves the state through                           |
//! | `debugfs`       | counters and times                                             |
//!
//! What is sent, what is accepted and which changes of state there are is decided by crate
//! `migration`, which has no `unsafe` code and is tested by itself.

mod data_file;
mod debugfs;
mod endpoint;
mod staging;
mod state_machine;
mod v1;
mod v2;

use self::{
    debugfs::Status,
    staging::Staging,
    state_machine::StateMachine, //
};
use crate::{
    debugfs::{
        Dir,
        File, //
    },
    device::{
        Device,
        Operations, //
    },
    handle::Core,
};
use core::sync::atomic::{
    AtomicBool,
    AtomicUsize,
    Ordering, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc, //
};
use migration::{
    region::Layout,
    save,
    stream::{
        self,
        Identity, //
    },
};

/// Smallest data section, in bytes. It has room for a page and the headers before it, whatever the
/// kernel's page size is.
const SECTION_MIN: usize = if PAGE_SIZE < 32 << 10 {
    64 << 10
} else {
    2 * PAGE_SIZE
};

/// Largest data section, in bytes.
const SECTION_MAX: usize = 64 << 20;

/// Size of the data sections of devices made from now on, in bytes.
static SECTION_SIZE: AtomicUsize = AtomicUsize::new(1 << 20);

/// Whether they may be mapped.
static SECTION_MMAP: AtomicBool = AtomicBool::new(true);

/// Sets, for devices made from now on, the size of the v1 data section in KiB, and whether users may
/// map it.
///
/// Without mapping all data goes through `read()` and `write()`, for a test of users that rely on
/// either (P28). `EINVAL` unless the size is a multiple of the page size, at least 64 KiB and two
/// pages, and at most 64 MiB.
pub fn configure(section_kib: u32, mmap: bool) -> Result {
    let size = usize::try_from(section_kib)?
        .checked_mul(1024)
        .ok_or(EINVAL)?;
    if !(SECTION_MIN..=SECTION_MAX).contains(&size) || size % PAGE_SIZE != 0 {
        return Err(EINVAL);
    }
    SECTION_SIZE.store(size, Ordering::Relaxed);
    SECTION_MMAP.store(mmap, Ordering::Relaxed);
    Ok(())
}

/// What distinguishes the migration of one driver's devices from another's.
pub(crate) struct Params {
    device_type: [u8; 16],
    device_version: u32,
    features: u32,
    state_size_max: u32,
}

impl Params {
    /// Those of driver `D`.
    pub(crate) const fn of<D: Device>() -> Self {
        const {
            assert!(D::DEVICE_TYPE.len() <= 16);
            assert!(D::STATE_SIZE_MAX <= u32::MAX as usize);
        }
        Self {
            device_type: stream::device_type(D::DEVICE_TYPE),
            device_version: D::DEVICE_VERSION,
            features: D::FEATURES,
            state_size_max: D::STATE_SIZE_MAX as u32,
        }
    }
}

/// The migration of one device.
pub(crate) struct Migration {
    core: Arc<Core>,
    machine: Arc<StateMachine>,
    staging: Staging,
    /// Where the data section is in the v1 region.
    layout: Layout,
    /// Whether the data section may be mapped.
    mmap: bool,
    /// Removes the file when dropped.
    _status: File<Status>,
}

impl Migration {
    /// The migration of a device that is not open, which tells of itself in the instance's directory
    /// of debugfs.
    pub(crate) fn new(
        core: Arc<Core>,
        device: Arc<dyn Operations>,
        params: &Params,
        debugfs: &Dir,
    ) -> Result<Self> {
        let identity = Identity {
            device_type: params.device_type,
            device_version: params.device_version,
            features: params.features,
            memory_size: core.memory.as_ref().map_or(0, |memory| memory.size()),
            page_size: PAGE_SIZE as u32,
            state_size_max: params.state_size_max,
        };
        let size = SECTION_SIZE.load(Ordering::Relaxed);
        if save::min_output(&identity) > size as u64 {
            return Err(EINVAL);
        }

        let machine = StateMachine::new(core.clone(), device, identity)?;
        Ok(Self {
            _status: debugfs.file(c"migration", Status(machine.clone()))?,
            machine,
            core,
            staging: Staging::new(size),
            layout: Layout {
                // The register block has a page to itself: it is never mapped (P6, P27).
                data_offset: PAGE_SIZE as u64,
                section_size: size as u64,
            },
            mmap: SECTION_MMAP.load(Ordering::Relaxed),
        })
    }

    /// The device is being opened. It runs (P8).
    pub(crate) fn open(&self) -> Result {
        // SAFETY: VFIO opens and closes a device in turns.
        unsafe { self.staging.open()? };
        self.machine.open()
    }

    /// The last user has closed the device. Sessions end, and the device is reset unless its state is to
    /// be kept.
    pub(crate) fn close(&self) {
        self.machine.close();
        // SAFETY: The device was open, and with its last file went the last mapping and call.
        unsafe { self.staging.close() };
    }

    /// Whether the last close leaves the device as it is.
    pub(crate) fn keeps_state(&self) -> bool {
        self.machine.keeps_state()
    }

    /// Says whether the last close leaves the device as it is. If not, a state that was kept is dropped
    /// at once.
    ///
    /// `EINTR` if the caller is killed while it waits: nothing has changed then.
    pub(crate) fn keep_state(&self, keep: bool) -> Result {
        self.machine.keep_state(keep)
    }

    /// `VFIO_DEVICE_RESET`: ends any session, resets the device and has it run (P11).
    ///
    /// `EINTR` if the caller is killed while it waits: nothing has changed then.
    pub(crate) fn reset(&self) -> Result {
        self.machine.reset()
    }
}
