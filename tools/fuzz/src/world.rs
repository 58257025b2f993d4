// SPDX-License-Identifier: GPL-2.0

//! The slots: what the calls of a program have opened and created.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex};

use hostile::{Cgroup, Stalled};
use rustix::fs::MemfdFlags;
use vfio_client::mdev::{Sysfs, Uuid};
use vfio_client::{EventFd, Mapping, Node};

use crate::budget::Budget;
use crate::domain::{Kind, GROUND};
use crate::ended;
use crate::removal::Removal;
use crate::second::Second;

/// Slots of one kind.
pub(crate) struct Slots<T>(Vec<Mutex<Option<Arc<T>>>>);

impl<T> Slots<T> {
    fn new(kind: Kind) -> Self {
        Slots((0..kind.slots()).map(|_| Mutex::default()).collect())
    }

    /// Returns the content of a slot.
    pub(crate) fn get(&self, slot: u64) -> Option<Arc<T>> {
        self.0.get(slot as usize)?.lock().unwrap().clone()
    }

    /// Fills a slot. Its old content is dropped once nobody uses it.
    pub(crate) fn put(&self, slot: u64, value: impl Into<Arc<T>>) {
        let new = Some(value.into());
        let old = std::mem::replace(&mut *self.0[slot as usize].lock().unwrap(), new);
        drop(old);
    }

    /// Empties a slot; returns whether it had content.
    pub(crate) fn take(&self, slot: u64) -> bool {
        let old = self
            .0
            .get(slot as usize)
            .and_then(|s| s.lock().unwrap().take());
        old.is_some()
    }

    fn clear(&self) {
        for slot in 0..self.0.len() {
            self.take(slot as u64);
        }
    }
}

/// All slots, and the initial objects.
pub(crate) struct World {
    pub(crate) containers: Slots<Node>,
    pub(crate) groups: Slots<Node>,
    pub(crate) devices: Slots<Node>,
    pub(crate) mappings: Slots<Mapping>,
    pub(crate) data: Slots<Node>,
    pub(crate) events: Slots<EventFd>,
    pub(crate) streams: Slots<Vec<u8>>,
    /// Memory for devices. It lives as long as the process.
    pub(crate) ground: Arc<Mapping>,
    /// A file to transfer the contents of mappings through.
    pub(crate) file: File,
    pub(crate) sysfs: Sysfs,
    /// The work that the program may still do in this process.
    pub(crate) budget: Budget,
    /// The second process.
    pub(crate) second: Second,
    /// Mappings, here or in the second process, whose page faults this process answers late.
    pub(crate) stalled: Mutex<Vec<Stalled>>,
    /// Processes that remove instances, and wait for their users.
    pub(crate) removals: Mutex<Vec<Removal>>,
}

impl World {
    /// Creates a world with nothing open.
    pub(crate) fn new(ground: Arc<Mapping>, budget: Budget) -> io::Result<Self> {
        let file = rustix::fs::memfd_create("fuzz", MemfdFlags::CLOEXEC)?;
        Ok(World {
            containers: Slots::new(Kind::Container),
            groups: Slots::new(Kind::Group),
            devices: Slots::new(Kind::Device),
            mappings: Slots::new(Kind::Mapping),
            data: Slots::new(Kind::Data),
            events: Slots::new(Kind::Event),
            streams: Slots::new(Kind::Stream),
            ground,
            file: file.into(),
            sysfs: Sysfs::default(),
            second: Second::new(budget.end()),
            budget,
            stalled: Mutex::default(),
            removals: Mutex::default(),
        })
    }

    /// Memory for all worlds of a process.
    pub(crate) fn ground() -> io::Result<Arc<Mapping>> {
        let ground = Mapping::anonymous(GROUND as usize)?;
        ground.reserve();
        Ok(Arc::new(ground))
    }

    /// Returns the slots of a kind of descriptors.
    pub(crate) fn nodes(&self, kind: Kind) -> Option<&Slots<Node>> {
        match kind {
            Kind::Container => Some(&self.containers),
            Kind::Group => Some(&self.groups),
            Kind::Device => Some(&self.devices),
            Kind::Data => Some(&self.data),
            _ => None,
        }
    }

    /// Closes everything, and waits for removals. Returns how the second process ended, and its control group.
    pub(crate) fn close(self) -> (ended::Result, Option<Arc<Cgroup>>) {
        // This answers all waiting page faults.
        self.stalled.into_inner().unwrap().clear();
        let second = self.second.end();
        self.mappings.clear();
        self.data.clear();
        self.devices.clear();
        self.groups.clear();
        self.containers.clear();
        self.events.clear();
        let removals = self.removals.into_inner().unwrap();
        removals.into_iter().for_each(Removal::wait);
        second
    }
}

/// Returns the UUID of the instance in a slot.
pub(crate) fn uuid(slot: u64) -> Uuid {
    Uuid::parse(&format!("f0220000-0000-4000-8000-{slot:012x}")).expect("of the form of one")
}
