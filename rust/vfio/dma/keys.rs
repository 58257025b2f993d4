// SPDX-License-Identifier: GPL-2.0

//! The keys of registered memory.
//!
//! A guest names registered memory by a key and an offset. A key is not used twice, so a key that was
//! deregistered names nothing, until 2^32 registrations later.
//!
//! # Limits
//!
//! A device has at most [`MAX_KEYS`] keys, for up to 256 GiB. What they pin is charged to the user as
//! type1 does it, by `RLIMIT_MEMLOCK`. type1 charges nothing if the container also has a device with an
//! IOMMU, because then the whole mapping is pinned and charged already.

use super::{
    guest_memory::Dma,
    range::Access,
    registered::RegisteredMemory, //
};
use kernel::{
    prelude::*,
    rbtree::RBTree, //
};
use kernel_ext::sched::cond_resched;

/// The most keys of one device.
pub const MAX_KEYS: usize = 1 << 14;

/// Why memory cannot be accessed by a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// No memory has this key.
    Unknown,
    /// A byte is outside the registered memory.
    Range,
    /// The access writes, and the memory is registered for reading.
    Access,
    /// A part of the memory was unmapped after it was registered.
    Unmapped,
}

/// The registered memory of one device, by key.
pub struct MemoryKeys {
    memory: RBTree<u32, RegisteredMemory>,
    count: usize,
    /// The next key.
    next: u32,
    /// The key from which on memory may have to be pinned; `None` if all is pinned that can be.
    unpinned: Option<u32>,
    /// The value of [`Dma::opens`] for which memory is pinned.
    opens: u64,
}

impl Default for MemoryKeys {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryKeys {
    /// No memory is registered.
    pub fn new() -> Self {
        Self {
            memory: RBTree::new(),
            count: 0,
            next: 1,
            unpinned: None,
            opens: 0,
        }
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the key that is tried next.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Sets the key that is tried next, after a restore.
    pub fn set_next(&mut self, next: u32) {
        self.next = next.max(1);
    }

    /// Adds memory that was just pinned and returns its key, which is not 0. `ENOSPC` if the device has
    /// [`MAX_KEYS`].
    pub fn insert(&mut self, dma: &Dma, memory: RegisteredMemory) -> Result<u32> {
        if self.count >= MAX_KEYS {
            return Err(ENOSPC);
        }
        if self.is_empty() {
            self.opens = dma.opens();
        }
        // Ends: there are fewer keys than numbers.
        while self.next == 0 || self.memory.get(&self.next).is_some() {
            self.next = self.next.wrapping_add(1);
        }
        let key = self.next;
        self.restore(key, memory)?;
        self.next = self.next.wrapping_add(1).max(1);
        Ok(key)
    }

    /// Adds memory with a given key, which no other memory has. If it is not pinned,
    /// [`MemoryKeys::pin_next`] pins it.
    pub fn restore(&mut self, key: u32, memory: RegisteredMemory) -> Result {
        if self.count >= MAX_KEYS {
            return Err(ENOSPC);
        }
        if key == 0 || self.memory.get(&key).is_some() {
            return Err(EEXIST);
        }
        cond_resched();
        if !memory.is_pinned() {
            self.unpinned = Some(self.unpinned.map_or(key, |first| first.min(key)));
        }
        self.memory
            .try_create_and_insert(key, memory, GFP_KERNEL_ACCOUNT)?;
        self.count += 1;
        Ok(())
    }

    /// Returns the memory with a key.
    pub fn get_mut(&mut self, key: u32) -> Option<&mut RegisteredMemory> {
        self.memory.get_mut(&key)
    }

    /// Removes the memory with a key.
    pub fn remove(&mut self, key: u32) -> Option<RegisteredMemory> {
        let memory = self.memory.remove(&key)?;
        self.count -= 1;
        Some(memory)
    }

    /// Removes and unpins everything. Keys that were used are not used again.
    pub fn clear(&mut self) {
        self.memory = RBTree::new();
        self.count = 0;
        self.unpinned = None;
    }

    /// Returns all memory in the order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &RegisteredMemory)> {
        self.memory.iter().map(|(&key, memory)| (key, memory))
    }

    /// Returns the memory with a key, for an access to `len` bytes at `offset`.
    #[inline]
    pub fn find(
        &self,
        key: u32,
        offset: u64,
        len: u64,
        write: bool,
    ) -> Result<&RegisteredMemory, KeyError> {
        let memory = self.memory.get(&key).ok_or(KeyError::Unknown)?;
        match offset.checked_add(len) {
            Some(end) if end <= memory.len() => (),
            _ => return Err(KeyError::Range),
        }
        if write && memory.access() == Access::Read {
            return Err(KeyError::Access);
        }
        if memory.is_unmapped() {
            return Err(KeyError::Unmapped);
        }
        Ok(memory)
    }

    /// Returns whether [`MemoryKeys::pin_next`] has something to do: memory was restored, or the device was
    /// closed and opened.
    #[inline]
    pub fn must_pin(&self, dma: &Dma) -> bool {
        self.unpinned.is_some() || (!self.is_empty() && self.opens != dma.opens())
    }

    /// Pins the next range of memory that is not pinned. Returns whether there may be more to do.
    ///
    /// The errors are those of [`RegisteredMemory::pin_next`], with the key. Memory that was unmapped is left
    /// as it is.
    pub fn pin_next(&mut self, dma: &Dma) -> Result<bool, (u32, Error)> {
        if self.opens != dma.opens() {
            // The close has unpinned everything.
            self.unpin_all();
            self.opens = dma.opens();
        }
        let Some(first) = self.unpinned else {
            return Ok(false);
        };
        let mut cursor = self.memory.cursor_lower_bound_mut(&first);
        let mut visited = 0;
        while let Some(mut at) = cursor {
            let (&key, memory) = at.current_mut();
            if !memory.is_pinned() && !memory.is_unmapped() {
                self.unpinned = Some(key);
                memory.pin_next(dma).map_err(|error| (key, error))?;
                return Ok(true);
            }
            visited += 1;
            if visited % 1024 == 0 {
                cond_resched();
            }
            cursor = at.move_next();
        }
        self.unpinned = None;
        Ok(false)
    }

    /// Unpins everything and keeps the keys. [`MemoryKeys::pin_next`] pins it again.
    pub fn unpin_all(&mut self) {
        for memory in self.memory.values_mut() {
            memory.unpin(usize::MAX);
        }
        self.unpinned = Some(0);
    }
}
