// SPDX-License-Identifier: GPL-2.0

//! The two superseded interfaces: the regions of July 2019 (v7) and of November 2018.

pub(crate) mod choice;
pub(crate) mod dirty_pages;
pub(crate) mod faults;
pub(crate) mod hostile;
pub(crate) mod matrix;
pub(crate) mod v2018;
pub(crate) mod v7;

use mdma::Mdma;
use vfio_client::{v2018 as posted, v7 as seventh, DataAccess, Device, DirtyBitmap, Section};

use crate::env::{Env, Guest, SMALL};
use crate::fixture::{Fixture, MdmaFixture};
use crate::harness::result::Result;

/// A device with the region of v7.
pub(crate) type V7 = MdmaFixture<seventh::Migration>;

/// A device with the region of 2018.
pub(crate) type V2018 = MdmaFixture<posted::Migration>;

/// A superseded interface.
pub(crate) trait Old: Sized + Sync {
    /// Its name in `migration_abi`.
    const ABI: &'static str;

    /// Finds the region.
    fn find(device: &Device) -> vfio_client::Result<Option<Self>>;

    /// Returns the data section.
    fn section(&self) -> &Section;

    /// Sets how data moves.
    fn access(&mut self, access: DataAccess) -> vfio_client::Result<()>;

    /// Begins a save of a running device that keeps running.
    fn begin_save(&self) -> vfio_client::Result<()>;

    /// Stops the device to save the rest.
    fn stop_save(&self) -> vfio_client::Result<()>;

    /// Appends all that can be saved now. Returns the number of buffers.
    fn save(&self, out: &mut Vec<u8>) -> vfio_client::Result<usize>;

    /// Ends the save of a stopped device.
    fn end_save(&self) -> vfio_client::Result<()>;

    /// Begins a load.
    fn begin_load(&self) -> vfio_client::Result<()>;

    /// Loads bytes.
    fn load(&self, bytes: &[u8]) -> vfio_client::Result<()>;

    /// Ends a load, and keeps the device stopped.
    fn end_load(&self) -> vfio_client::Result<()>;

    /// Lets a stopped device run.
    fn run(&self) -> vfio_client::Result<()>;

    /// Returns the dirty pages of guest memory, in pages of 4 KiB.
    fn dirty(&self, iova: u64, size: u64) -> vfio_client::Result<DirtyBitmap>;
}

impl Old for seventh::Migration {
    const ABI: &'static str = "v7";

    fn find(device: &Device) -> vfio_client::Result<Option<Self>> {
        device.migration_v7()
    }

    fn section(&self) -> &Section {
        self
    }

    fn access(&mut self, access: DataAccess) -> vfio_client::Result<()> {
        self.set_access(access)
    }

    fn begin_save(&self) -> vfio_client::Result<()> {
        self.set_state(vfio_client::v1::State::PRE_COPY)
    }

    fn stop_save(&self) -> vfio_client::Result<()> {
        self.set_state(vfio_client::v1::State::STOP_AND_COPY)
    }

    fn save(&self, out: &mut Vec<u8>) -> vfio_client::Result<usize> {
        let (mut buffer, mut count) = (Vec::new(), 0);
        while self.pending_bytes()? > 0 {
            self.save_buffer(&mut buffer)?;
            if buffer.is_empty() {
                break;
            }
            out.extend_from_slice(&buffer);
            count += 1;
        }
        Ok(count)
    }

    fn end_save(&self) -> vfio_client::Result<()> {
        self.set_state(vfio_client::v1::State::STOP)
    }

    fn begin_load(&self) -> vfio_client::Result<()> {
        self.set_state(vfio_client::v1::State::RESUMING)
    }

    fn load(&self, bytes: &[u8]) -> vfio_client::Result<()> {
        self.load_buffer(bytes)
    }

    fn end_load(&self) -> vfio_client::Result<()> {
        self.set_state(vfio_client::v1::State::STOP)
    }

    fn run(&self) -> vfio_client::Result<()> {
        self.set_state(vfio_client::v1::State::RUNNING)
    }

    fn dirty(&self, iova: u64, size: u64) -> vfio_client::Result<DirtyBitmap> {
        self.dirty_bitmap(iova, size, crate::fixture::PAGE)
    }
}

impl Old for posted::Migration {
    const ABI: &'static str = "2018";

    fn find(device: &Device) -> vfio_client::Result<Option<Self>> {
        device.migration_2018()
    }

    fn section(&self) -> &Section {
        self
    }

    fn access(&mut self, access: DataAccess) -> vfio_client::Result<()> {
        self.set_access(access)
    }

    fn begin_save(&self) -> vfio_client::Result<()> {
        self.set_state(posted::State::SETUP)?;
        self.set_state(posted::State::PRECOPY)
    }

    fn stop_save(&self) -> vfio_client::Result<()> {
        self.set_state(posted::State::STOPNCOPY)
    }

    /// The loops of the posted user: data is called for only while its kind is pending.
    fn save(&self, out: &mut Vec<u8>) -> vfio_client::Result<usize> {
        let (mut buffer, mut count) = (Vec::new(), 0);
        let running = self.state()? == posted::State::PRECOPY;
        loop {
            let pending = self.pending(1)?;
            let calls = match running {
                true => pending.precopy_only,
                false => pending.postcopy_only,
            };
            if calls != 0 {
                self.save_buffer(&mut buffer)?;
                out.extend_from_slice(&buffer);
                count += 1;
            }
            if pending.sum() == 0 || calls == 0 || buffer.is_empty() {
                return Ok(count);
            }
        }
    }

    fn end_save(&self) -> vfio_client::Result<()> {
        self.set_state(posted::State::SAVE_COMPLETED)
    }

    fn begin_load(&self) -> vfio_client::Result<()> {
        self.set_state(posted::State::RESUME)
    }

    fn load(&self, bytes: &[u8]) -> vfio_client::Result<()> {
        self.load_buffer(bytes)
    }

    fn end_load(&self) -> vfio_client::Result<()> {
        self.set_state(posted::State::RESUME_COMPLETED)
    }

    fn run(&self) -> vfio_client::Result<()> {
        self.set_state(posted::State::RUNNING)
    }

    fn dirty(&self, iova: u64, size: u64) -> vfio_client::Result<DirtyBitmap> {
        self.dirty_bitmap(iova, size)
    }
}

impl<M: Old> MdmaFixture<M> {
    /// Opens a new instance of the smallest type with this interface.
    pub(crate) fn old(env: &Env) -> Result<Self> {
        let instance = env.instance(SMALL)?;
        instance.set_migration_abi(M::ABI)?;
        Self::old_of(Guest::open(instance)?)
    }

    /// Wraps an open device.
    pub(crate) fn old_of(guest: Guest) -> Result<Self> {
        let Some(migration) = M::find(&guest.device)? else {
            crate::fail!("the device has no region of {}", M::ABI);
        };
        Ok(MdmaFixture {
            mdma: Mdma::open(&guest.device)?,
            fixture: Fixture { migration, guest },
        })
    }

    /// Saves the running device and leaves it stopped.
    pub(crate) fn save_old(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.migration.begin_save()?;
        self.migration.save(&mut bytes)?;
        self.migration.stop_save()?;
        self.migration.save(&mut bytes)?;
        self.migration.end_save()?;
        Ok(bytes)
    }

    /// Loads a saved device and lets it run.
    pub(crate) fn load_old(&self, bytes: &[u8]) -> Result {
        self.migration.begin_load()?;
        self.migration.load(bytes)?;
        self.migration.end_load()?;
        Ok(self.migration.run()?)
    }

    /// Returns the ways in which data can move.
    pub(crate) fn accesses(&self) -> Vec<DataAccess> {
        let mut accesses = vec![DataAccess::Trapped];
        if self.migration.section().mapping().is_some() {
            accesses.push(DataAccess::Mapped);
        }
        accesses
    }
}

/// Makes every access to the registers that is not `legal` and checks that each is refused. Legal ones are not made.
pub(crate) fn refuses_all_but(
    section: &Section,
    end: u64,
    legal: impl Fn(u64, usize, bool) -> bool,
    when: &str,
) {
    let mut refused = 0;
    for offset in 0..end {
        for len in 1..=end as usize {
            for write in [false, true] {
                if legal(offset, len, write) {
                    continue;
                }
                let mut bytes = vec![0; len];
                let result = match write {
                    true => section.region().pwrite(offset, &bytes),
                    false => section.region().pread(offset, &mut bytes),
                };
                let errno = result.as_ref().map_err(std::io::Error::raw_os_error);
                assert_eq!(
                    errno,
                    Err(Some(libc::EINVAL)),
                    "{when}: {len} bytes at {offset}, write: {write}"
                );
                refused += 1;
            }
        }
    }
    assert!(refused > 1000);
}
