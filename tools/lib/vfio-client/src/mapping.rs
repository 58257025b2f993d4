// SPDX-License-Identifier: GPL-2.0

//! Memory that others change: device memory, and memory that devices access.
//!
//! No Rust reference to such memory ever exists. All accesses are relaxed atomics, so that threads of this process may
//! access the same bytes concurrently, and the device may access them between any two of those accesses.

use std::io;
use std::os::fd::AsFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicU8, Ordering};

use rustix::mm::{mmap, mmap_anonymous, mprotect, munmap, MapFlags, MprotectFlags, ProtFlags};

/// Protection and flags of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// `PROT_READ`.
    pub read: bool,
    /// `PROT_WRITE`.
    pub write: bool,
    /// `PROT_EXEC`, for tests of refusals.
    pub exec: bool,
    /// `MAP_SHARED`; otherwise `MAP_PRIVATE`.
    pub shared: bool,
}

impl Protection {
    /// Readable and shared.
    pub const READ: Self = Protection {
        read: true,
        write: false,
        exec: false,
        shared: true,
    };
    /// Readable, writable and shared.
    pub const READ_WRITE: Self = Protection {
        read: true,
        write: true,
        exec: false,
        shared: true,
    };

    fn prot(self) -> ProtFlags {
        let mut prot = ProtFlags::empty();
        prot.set(ProtFlags::READ, self.read);
        prot.set(ProtFlags::WRITE, self.write);
        prot.set(ProtFlags::EXEC, self.exec);
        prot
    }

    fn flags(self) -> MapFlags {
        if self.shared {
            MapFlags::SHARED
        } else {
            MapFlags::PRIVATE
        }
    }
}

/// A mapping of a device region, or of anonymous memory.
///
/// Offsets and lengths are in bytes from its start. Like a slice, it panics on an access outside it, and on a write if
/// it is not writable.
///
/// # Invariants
///
/// `base..base + len` is one mapping that this object owns, made with `protection`.
#[derive(Debug)]
pub struct Mapping {
    base: *mut u8,
    len: usize,
    protection: Protection,
    /// Whether the addresses stay reserved after the drop.
    reserved: AtomicBool,
}

// SAFETY: The mapping belongs to the process, not to a thread, and `Mapping` gives no references to it.
unsafe impl Send for Mapping {}
// SAFETY: All accesses are atomic.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps zeroed anonymous memory. Untouched pages cost nothing.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        let protection = Protection {
            shared: false,
            ..Protection::READ_WRITE
        };
        // SAFETY: A new mapping at an address of the kernel's choice cannot overlap memory in use.
        let base = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                len,
                protection.prot(),
                protection.flags() | MapFlags::NORESERVE,
            )?
        };
        // INVARIANT: Just mapped, with this length and protection.
        Ok(Mapping {
            base: base.cast(),
            len,
            protection,
            reserved: AtomicBool::new(false),
        })
    }

    /// Maps `len` bytes of a file at `offset`, and returns the result unchanged.
    pub fn of_file(
        fd: impl AsFd,
        offset: u64,
        len: usize,
        protection: Protection,
    ) -> io::Result<Self> {
        // SAFETY: A new mapping at an address of the kernel's choice cannot overlap memory in use.
        let base = unsafe {
            mmap(
                ptr::null_mut(),
                len,
                protection.prot(),
                protection.flags(),
                fd,
                offset,
            )?
        };
        // INVARIANT: Just mapped, with this length and protection.
        Ok(Mapping {
            base: base.cast(),
            len,
            protection,
            reserved: AtomicBool::new(false),
        })
    }

    /// Returns the size in bytes.
    #[allow(clippy::len_without_is_empty, reason = "mappings are never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the protection.
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// Reserves the addresses until the process ends, even after the mapping is dropped: for memory that devices can
    /// reach for an unknown time.
    pub fn reserve(&self) {
        self.reserved.store(true, Ordering::Relaxed);
    }

    /// `mprotect()` of a range of whole pages. An access that violates it kills the process by a signal.
    ///
    /// # Panics
    ///
    /// If the range is not inside the mapping.
    pub fn protect(&self, offset: usize, len: usize, write: bool) -> io::Result<()> {
        self.check(offset, len);
        let mut flags = MprotectFlags::READ;
        flags.set(MprotectFlags::WRITE, write);
        // SAFETY: By the check and the invariants the range is this object's, which gives no references to it.
        unsafe { mprotect(self.base.add(offset).cast(), len, flags)? };
        Ok(())
    }

    /// Returns the virtual address as a number, for the kernel and for messages.
    pub fn address(&self) -> u64 {
        self.base as u64
    }

    /// # Panics
    ///
    /// If the range is not inside the mapping.
    pub(crate) fn check(&self, offset: usize, len: usize) {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "{len} bytes at offset {offset} are outside a mapping of {} bytes",
            self.len
        );
    }

    fn readable(&self, offset: usize, len: usize) -> *mut u8 {
        self.check(offset, len);
        assert!(self.protection.read, "the mapping is not readable");
        // SAFETY: By the check and the invariants the result is inside the mapping.
        unsafe { self.base.add(offset) }
    }

    fn writable(&self, offset: usize, len: usize) -> *mut u8 {
        self.check(offset, len);
        assert!(self.protection.write, "the mapping is not writable");
        // SAFETY: By the check and the invariants the result is inside the mapping.
        unsafe { self.base.add(offset) }
    }

    /// Copies bytes out, with any size and alignment.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        let start = self.readable(offset, out.len());
        let head = start.align_offset(8).min(out.len());
        let (first, rest) = out.split_at_mut(head);
        for (i, byte) in first.iter_mut().enumerate() {
            // SAFETY: Inside the range that `readable` checked; bytes have no alignment.
            *byte = unsafe { AtomicU8::from_ptr(start.add(i)) }.load(Ordering::Relaxed);
        }
        let (words, last) = rest.split_at_mut(rest.len() & !7);
        let mut at = head;
        for word in words.chunks_exact_mut(8) {
            // SAFETY: Inside the range that `readable` checked, and aligned: `head` reaches the first multiple of 8.
            let value = unsafe { word_at(start, at) }.load(Ordering::Relaxed);
            word.copy_from_slice(&value.to_ne_bytes());
            at += 8;
        }
        for (i, byte) in last.iter_mut().enumerate() {
            // SAFETY: Inside the range that `readable` checked.
            *byte = unsafe { AtomicU8::from_ptr(start.add(at + i)) }.load(Ordering::Relaxed);
        }
    }

    /// Copies bytes in, with any size and alignment.
    pub fn write(&self, offset: usize, data: &[u8]) {
        let start = self.writable(offset, data.len());
        let head = start.align_offset(8).min(data.len());
        let (first, rest) = data.split_at(head);
        for (i, byte) in first.iter().enumerate() {
            // SAFETY: Inside the range that `writable` checked; bytes have no alignment.
            unsafe { AtomicU8::from_ptr(start.add(i)) }.store(*byte, Ordering::Relaxed);
        }
        let (words, last) = rest.split_at(rest.len() & !7);
        let mut at = head;
        for word in words.chunks_exact(8) {
            let value = u64::from_ne_bytes(word.try_into().unwrap());
            // SAFETY: Inside the range that `writable` checked, and aligned: `head` reaches the first multiple of 8.
            unsafe { word_at(start, at) }.store(value, Ordering::Relaxed);
            at += 8;
        }
        for (i, byte) in last.iter().enumerate() {
            // SAFETY: Inside the range that `writable` checked.
            unsafe { AtomicU8::from_ptr(start.add(at + i)) }.store(*byte, Ordering::Relaxed);
        }
    }

    /// Copies bytes out into a new vector.
    pub fn to_vec(&self, offset: usize, len: usize) -> Vec<u8> {
        // Check before allocating memory of this size.
        self.check(offset, len);
        let mut out = vec![0; len];
        self.read(offset, &mut out);
        out
    }

    /// Writes one value to every byte of a range.
    pub fn fill(&self, offset: usize, len: usize, value: u8) {
        let chunk = [value; 4096];
        self.check(offset, len);
        let mut done = 0;
        while done < len {
            let n = chunk.len().min(len - done);
            self.write(offset + done, &chunk[..n]);
            done += n;
        }
    }

    /// Copies between two mappings, in ascending order.
    pub fn copy_to(&self, offset: usize, to: &Mapping, to_offset: usize, len: usize) {
        let mut chunk = [0; 4096];
        self.check(offset, len);
        to.check(to_offset, len);
        let mut done = 0;
        while done < len {
            let n = chunk.len().min(len - done);
            self.read(offset + done, &mut chunk[..n]);
            to.write(to_offset + done, &chunk[..n]);
            done += n;
        }
    }

    /// Reads one byte of the page at `offset`, so that the page is present.
    pub fn touch(&self, offset: usize) {
        self.load_u8(offset, Ordering::Relaxed);
    }
}

/// # Safety
///
/// The eight bytes at `base + at` are inside one mapping, aligned, and accessed atomically by everyone in this process.
unsafe fn word_at<'a>(base: *mut u8, at: usize) -> &'a AtomicU64 {
    // SAFETY: As the caller promises; the cast keeps the alignment it promises too.
    unsafe { AtomicU64::from_ptr(base.add(at).cast()) }
}

/// Declares aligned accesses of one width.
macro_rules! atomic_access {
    ($type:ty, $atomic:ty, $load:ident, $store:ident) => {
        impl Mapping {
            /// Loads a value, in one access.
            ///
            /// # Panics
            ///
            /// If `offset` is not aligned to the value's size.
            pub fn $load(&self, offset: usize, order: Ordering) -> $type {
                let at: *mut $type = self.readable(offset, size_of::<$type>()).cast();
                assert!(at.is_aligned(), "offset {offset} is not aligned");
                // SAFETY: In the mapping, by `readable`, and aligned. All accesses in this process are atomic.
                unsafe { <$atomic>::from_ptr(at) }.load(order)
            }

            /// Stores a value, in one access.
            ///
            /// # Panics
            ///
            /// If `offset` is not aligned to the value's size.
            pub fn $store(&self, offset: usize, value: $type, order: Ordering) {
                let at: *mut $type = self.writable(offset, size_of::<$type>()).cast();
                assert!(at.is_aligned(), "offset {offset} is not aligned");
                // SAFETY: As in the load.
                unsafe { <$atomic>::from_ptr(at) }.store(value, order);
            }
        }
    };
}

atomic_access!(u8, AtomicU8, load_u8, store_u8);
atomic_access!(u16, AtomicU16, load_u16, store_u16);
atomic_access!(u32, AtomicU32, load_u32, store_u32);
atomic_access!(u64, AtomicU64, load_u64, store_u64);

impl Drop for Mapping {
    fn drop(&mut self) {
        if *self.reserved.get_mut() {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
            // SAFETY: By the invariants the range is this object's, and no reference to it outlives a call. If that
            // fails, the mapping stays as it is.
            let _ =
                unsafe { mmap_anonymous(self.base.cast(), self.len, ProtFlags::empty(), flags) };
            return;
        }
        // SAFETY: By the invariants the range is this object's, and no reference to it outlives a call.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offset_and_length_near_word_edges() {
        let m = Mapping::anonymous(4096).unwrap();
        for offset in 0..20 {
            for len in 0..40 {
                m.fill(0, 128, 0xee);
                let data: Vec<u8> = (0..len).map(|i| (i * 7 + offset) as u8).collect();
                m.write(offset, &data);
                assert_eq!(m.to_vec(offset, len), data);
                assert!(m.to_vec(0, offset).iter().all(|b| *b == 0xee));
                assert!(m.to_vec(offset + len, 8).iter().all(|b| *b == 0xee));
            }
        }
    }

    #[test]
    fn words_are_native_endian_bytes() {
        let m = Mapping::anonymous(4096).unwrap();
        m.store_u64(8, 0x1122_3344_5566_7788, Ordering::Relaxed);
        assert_eq!(m.to_vec(8, 8), 0x1122_3344_5566_7788u64.to_ne_bytes());
        m.store_u32(16, 0xaabb_ccdd, Ordering::Release);
        assert_eq!(m.load_u32(16, Ordering::Acquire), 0xaabb_ccdd);
    }

    #[test]
    #[should_panic(expected = "outside a mapping")]
    fn past_the_end() {
        Mapping::anonymous(4096).unwrap().read(4090, &mut [0; 7]);
    }

    #[test]
    #[should_panic(expected = "outside a mapping")]
    fn overflow() {
        Mapping::anonymous(4096).unwrap().check(usize::MAX, 2);
    }

    #[test]
    #[should_panic(expected = "not writable")]
    fn read_only() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let m = Mapping::of_file(file, 0, 4096, Protection::READ).unwrap();
        assert_eq!(m.to_vec(0, 4), *b"\x7fELF");
        m.write(0, &[0]);
    }

    #[test]
    fn what_is_reserved_stays_empty() {
        let m = Mapping::anonymous(3 * 4096).unwrap();
        m.reserve();
        let address = m.address();
        drop(m);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let holds = |line: &&str| {
            let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            number(from) <= address && address + 3 * 4096 <= number(to)
        };
        let line = maps.lines().find(holds).expect("the addresses are in use");
        assert!(line.contains(" ---p "), "{line}");
    }

    #[test]
    fn copies_between_mappings() {
        let a = Mapping::anonymous(3 * 4096).unwrap();
        let b = Mapping::anonymous(3 * 4096).unwrap();
        let data: Vec<u8> = (0..9000u32).map(|i| (i * 31) as u8).collect();
        a.write(3, &data);
        a.copy_to(3, &b, 100, data.len());
        assert_eq!(b.to_vec(100, data.len()), data);
    }
}
