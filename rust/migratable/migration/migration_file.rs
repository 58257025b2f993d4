// SPDX-License-Identifier: GPL-2.0

//! The file that v2 moves a device's state through (P43-P46).
//!
//! A file belongs to one session and may outlive it. It refers to the device only until the session
//! ends, and returns errors afterwards. It keeps the module loaded, but neither the device nor its
//! memory.
//!
//! Bytes are copied once: between the user's memory and that of the device. There is a buffer for two
//! cases: a `read()` that is too short for whole records, and pages of the user's that are still not
//! present at the second try. It is allocated at the first use and freed when the session ends, so the files
//! of former sessions hold no memory.
//!
//! # Locks
//!
//! ```text
//!   io         one read or write at a time; held over the copy to or from the user
//!     state    the state machine's; held only over copies that do not wait for a page
//!       link   the device of the session
//! ```
//!
//! A thread may hold `io` as long as a page fault of the user lasts, so a thread that waits for it can
//! be killed. Neither the end of a session nor a page fault waits for it. The thread that ends a session
//! frees the buffer if it gets `io` at once. Otherwise the thread that holds `io` frees it: after
//! unlocking, it looks whether the session is over.

use super::{
    data_section::Window,
    link::Link,
    stream_buffer::UserBuffer,
    transfer::Attempt, //
};
use crate::{
    device::{
        Device,
        VfioDevice, //
    },
    driver::Driver,
    memory::DirtyNotifier, //
};
use core::{
    marker::PhantomData,
    mem::size_of,
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::{
    error::from_err_ptr,
    ffi::{
        c_long,
        c_ulong,
        c_void, //
    },
    fs::File,
    ioctl::_IO,
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        poll::PollTable,
        Arc,
        Mutex, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};
use kernel_ext::mutex::{
    self,
    new_killable_mutex, //
};
use migration::state::State;
use vfio::refuse;
use vfio_bindings as bindings;

/// Bytes of the buffer.
const BUFFER: usize = 64 << 10;

/// The fewest bytes for which `read()` does not use the buffer: with fewer, most of it would be too short for
/// another record.
const DIRECT_MIN: usize = 64 << 10;

/// The most bytes that one `read()` moves, so that a call ends soon.
const READ_MAX: usize = 16 << 20;

/// The most bytes that one `write()` moves. A record of 40 bytes may change all of device memory, so these take
/// longer.
const WRITE_MAX: usize = 1 << 20;

/// `ENOMSG`: nothing to read now, but maybe later.
const ENOMSG: i32 = -42;

/// New initial data is present.
const VFIO_PRECOPY_INFO_REINIT: u32 = 1 << 0;

const VFIO_MIG_GET_PRECOPY_INFO: u32 = _IO(
    bindings::VFIO_TYPE as u32,
    bindings::VFIO_BASE + 21, //
);

/// The part under `io`: bytes between the user and the session.
struct Buffer {
    /// The memory. Empty until the first use.
    bytes: KVVec<u8>,
    /// Index of the first byte that was not moved.
    at: usize,
    /// End of the bytes that the session sends for the first time. They come first.
    initial: usize,
    /// End of the valid bytes.
    end: usize,
}

impl Buffer {
    /// Returns a buffer without memory.
    const fn new() -> Self {
        Self {
            bytes: KVVec::new(),
            at: 0,
            initial: 0,
            end: 0,
        }
    }

    /// Returns all of its memory. Allocates it at the first call.
    fn memory(&mut self) -> Result<&mut [u8]> {
        if self.bytes.is_empty() {
            self.bytes = kernel_ext::zeroed(BUFFER)?;
        }
        Ok(&mut self.bytes)
    }
}

/// The stream that a data file and its session share.
#[pin_data]
pub(super) struct MigrationFile<T: Driver> {
    /// The device, until the session ends.
    #[pin]
    link: Mutex<Option<ARef<VfioDevice<T>>>>,
    #[pin]
    io: mutex::Mutex<Buffer>,
    /// Bytes in the buffer that are sent for the first time. Read without `io`.
    initial: Atomic<usize>,
    /// All other bytes in the buffer. Read without `io`.
    again: Atomic<usize>,
    dirty_notifier: Arc<DirtyNotifier>,
}

impl<T: Driver> MigrationFile<T> {
    /// Returns the stream of a session that is about to begin.
    pub(super) fn new(dev: &VfioDevice<T>) -> Result<Arc<Self>> {
        let dirty_notifier = dev.machine.dirty_notifier.clone();
        Arc::pin_init(
            pin_init!(Self {
                link <- new_mutex!(Some(ARef::from(dev)), "migration stream"),
                io <- new_killable_mutex!(Buffer::new(), "migration stream buffer"),
                initial: Atomic::new(0),
                again: Atomic::new(0),
                dirty_notifier,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Frees the buffer of a session that is over, unless a thread uses it.
    fn free(&self) {
        if let Some(mut io) = self.io.try_lock() {
            *io = Buffer::new();
            self.count(&io);
        }
    }

    /// Calls `f` to move bytes through the buffer. One caller at a time.
    fn transfer(&self, f: impl FnOnce(&mut Buffer) -> Result<usize>) -> Result<usize> {
        let result = self.io.lock().and_then(|mut io| f(&mut io));
        if self.link.lock().is_none() {
            // The thread that ended the session may have found the buffer locked.
            self.free();
        }
        result
    }

    /// Updates the counts of bytes in the buffer.
    fn count(&self, io: &Buffer) {
        let initial = io.initial.saturating_sub(io.at);
        self.initial.store(initial, Relaxed);
        self.again.store(io.end - io.at - initial, Relaxed);
    }

    /// Returns the device; `ENODEV` if the session is over.
    fn device(&self) -> Result<ARef<VfioDevice<T>>> {
        self.link.lock().clone().ok_or(ENODEV)
    }

    /// Creates a file for the user: to read from while saving, else to write to.
    pub(super) fn file(self: &Arc<Self>, saving: bool) -> Result<ARef<File>> {
        let (name, flags) = if saving {
            (c"[vfio-save]", bindings::O_RDONLY)
        } else {
            (c"[vfio-load]", bindings::O_WRONLY)
        };
        let this = Arc::into_raw(self.clone());
        // SAFETY: Name and operations are static. On success the file owns `this`.
        let file = from_err_ptr(unsafe {
            bindings::anon_inode_getfile(
                name.as_char_ptr(),
                Operations::<T>::TABLE,
                this.cast_mut().cast::<c_void>(),
                flags as i32,
            )
        })
        .inspect_err(|_| {
            // SAFETY: There is no file, so this function still owns the reference.
            drop(unsafe { Arc::from_raw(this) });
        })?;
        let file = NonNull::new(file).ok_or(ENOMEM)?;
        // SAFETY: The file is new. This sets that it has no position, and does not fail.
        unsafe { bindings::stream_open(ptr::null_mut(), file.as_ptr()) };
        // SAFETY: A `File` is a `struct file`, and this function owns the reference.
        Ok(unsafe { ARef::from_raw(file.cast()) })
    }

    /// `read()`.
    fn read(&self, to: UserPtr, len: usize) -> Result<usize> {
        if len == 0 {
            return Ok(0);
        }
        self.transfer(|io| {
            let dev = self.device()?;
            if io.at == io.end {
                let mut attempt = Attempt::First;
                if len >= DIRECT_MIN {
                    attempt = Attempt::Again;
                    if let Some(count) = self.read_direct(&dev, to, len.min(READ_MAX))? {
                        return Ok(count);
                    }
                }
                self.refill(&dev, io, attempt)?;
                if io.end == 0 {
                    return Ok(0);
                }
            }
            let part = io.bytes.get(io.at..io.end).unwrap_or_default();
            let part = part.get(..len).unwrap_or(part);
            // SAFETY: The slice is valid for reads. No page fault takes the lock that is held.
            let left = unsafe {
                bindings::copy_to_user(to.as_mut_ptr(), part.as_ptr().cast::<c_void>(), part.len())
            };
            let copied = part.len() - left;
            io.at += copied;
            self.count(io);
            match copied {
                0 => Err(EFAULT),
                _ => Ok(copied),
            }
        })
    }

    /// Moves whole records to the user, and returns the number of bytes; 0 if the stream has ended. `None` if
    /// the user's memory is not present when it is tried again.
    fn read_direct(&self, dev: &Device<T>, to: UserPtr, len: usize) -> Result<Option<usize>> {
        let mut buffer = UserBuffer::new(to, len);
        for attempt in [Attempt::First, Attempt::Again] {
            let (result, state) = {
                let mut inner = dev.lock_state()?;
                if !inner.is_file(self) {
                    return Err(ENODEV);
                }
                (dev.fill(&mut inner, &mut buffer, len, attempt), inner.state)
            };
            match result {
                Ok(0) if state != State::StopCopy => return Err(Error::from_errno(ENOMSG)),
                Err(_) if buffer.has_faulted() => buffer.fault_in_writeable()?,
                result => return result.map(Some),
            }
        }
        Ok(None)
    }

    /// Fills the buffer, which is empty. If it stays empty, the stream has ended.
    fn refill(&self, dev: &Device<T>, io: &mut Buffer, attempt: Attempt) -> Result {
        (io.at, io.initial, io.end) = (0, 0, 0);
        let memory = io.memory()?;
        let len = memory.len();
        // SAFETY: The buffer is valid for its length, and `io` is locked as long as the window exists.
        let mut window = unsafe { Window::new(memory.as_mut_ptr(), len) };
        let mut inner = dev.lock_state()?;
        if !inner.is_file(self) {
            return Err(ENODEV);
        }
        let before = dev.precopy_info(&mut inner);
        io.end = dev.fill(&mut inner, &mut window, len, attempt)?;
        let after = dev.precopy_info(&mut inner);
        let initial = before.initial_bytes.saturating_sub(after.initial_bytes);
        io.initial = match (before.initial_bytes, before.dirty_bytes) {
            (0, _) => 0,
            // Estimates do not count the headers of records that are split at the end of a buffer.
            (_, 0) => io.end,
            // Initial bytes are sent first.
            _ => io.end.min(usize::try_from(initial)?),
        };
        self.count(io);
        match inner.state {
            State::StopCopy => Ok(()),
            _ if io.end == 0 => Err(Error::from_errno(ENOMSG)),
            _ => Ok(()),
        }
    }

    /// `write()`. Moves fewer bytes if a load fails with a transient errno; the user may write the rest again.
    fn write(&self, from: UserPtr, len: usize) -> Result<usize> {
        if len == 0 {
            return Ok(0);
        }
        self.transfer(|io| {
            let dev = self.device()?;
            match self.write_direct(&dev, from, len.min(WRITE_MAX))? {
                0 => self.write_buffered(&dev, io, from, len),
                count => Ok(count),
            }
        })
    }

    /// Loads straight from the user's memory. Returns how many bytes; 0 if the first are not present when it is
    /// tried again.
    fn write_direct(&self, dev: &Device<T>, from: UserPtr, len: usize) -> Result<usize> {
        let mut done = 0;
        let mut is_stuck = false;
        let mut attempt = Attempt::First;
        // Each round loads something, or is the second that does not.
        while done < len {
            let rest = len - done;
            let buffer = UserBuffer::new(from.wrapping_byte_add(done), rest);
            let result = {
                let mut inner = dev.lock_state()?;
                if !inner.is_file(self) {
                    return Err(ENODEV);
                }
                dev.feed(&mut inner, &buffer, rest, attempt)
            };
            let count = match result {
                Ok(count) => count,
                Err(_) if buffer.has_faulted() => 0,
                // The next call returns it again.
                Err(error) if error == ENOMEM && done != 0 => break,
                Err(error) => return Err(error),
            };
            done += count;
            attempt = Attempt::Again;
            if !buffer.has_faulted() || (is_stuck && count == 0) {
                break;
            }
            is_stuck = count == 0;
            if buffer.fault_in_readable().is_err() {
                break;
            }
        }
        Ok(done)
    }

    /// Loads at most one buffer.
    fn write_buffered(
        &self,
        dev: &Device<T>,
        io: &mut Buffer,
        from: UserPtr,
        len: usize,
    ) -> Result<usize> {
        let memory = io.memory()?;
        let len = memory.len().min(len);
        let part = memory.get_mut(..len).unwrap_or_default();
        UserSlice::new(from, len).reader().read_slice(part)?;

        // SAFETY: As in `refill`.
        let window = unsafe { Window::new(memory.as_mut_ptr(), len) };
        let mut inner = dev.lock_state()?;
        if !inner.is_file(self) {
            return Err(ENODEV);
        }
        dev.feed(&mut inner, &window, len, Attempt::Again)
    }

    /// `VFIO_MIG_GET_PRECOPY_INFO` (P45).
    fn precopy_info(&self, arg: UserPtr) -> Result {
        const SIZE: usize = size_of::<bindings::vfio_precopy_info>();

        // All of the structure must be accessible, whatever its `argsz`.
        let mut bytes = [0; SIZE];
        UserSlice::new(arg, SIZE).reader().read_slice(&mut bytes)?;
        let [a, b, c, d, ..] = bytes;
        let argsz = u32::from_ne_bytes([a, b, c, d]);
        // A session that is over is not in pre-copy either.
        let dev = self.device().map_err(|_| EINVAL)?;
        if (argsz as usize) < SIZE {
            refuse!(dev, "precopy info: argsz {argsz} is less than {SIZE}");
            return Err(EINVAL);
        }
        let info = {
            let mut inner = dev.lock_state()?;
            if !inner.is_file(self) {
                return Err(EINVAL);
            }
            if !matches!(inner.state, State::PreCopy | State::PreCopyP2p) {
                refuse!(dev, "precopy info: {} is no pre-copy state", inner.state);
                return Err(EINVAL);
            }
            dev.precopy_info(&mut inner)
        };
        let buffered = self.initial.load(Relaxed) as u64;
        let again = self.again.load(Relaxed) as u64;
        // What is in the buffer comes before the initial bytes that started over.
        let (initial, again) = match info.reinit {
            true => (buffered.saturating_add(again), 0),
            false => (buffered, again),
        };
        let initial = info.initial_bytes.saturating_add(initial);
        let reinit = info.reinit && dev.reports_reinit();
        let flags = if reinit { VFIO_PRECOPY_INFO_REINIT } else { 0 };
        let mut writer = UserSlice::new(arg, SIZE).writer();
        writer.write::<u32>(&argsz)?;
        writer.write::<u32>(&flags)?;
        writer.write::<u64>(&initial)?;
        writer.write::<u64>(&info.dirty_bytes.saturating_add(again))?;
        // The flag stays until the user has seen it and read all initial bytes.
        if reinit && initial == 0 {
            let mut inner = dev.lock_state()?;
            if inner.is_file(self) {
                dev.forget_reinit(&mut inner);
            }
        }
        Ok(())
    }

    /// `poll()` (P46).
    fn poll(&self, file: &File, table: &PollTable<'_>) -> u32 {
        const IN: u32 = bindings::POLLIN | bindings::POLLRDNORM;
        const OUT: u32 = bindings::POLLOUT | bindings::POLLWRNORM;

        self.dirty_notifier.register(file, table);
        let Ok(dev) = self.device() else {
            return bindings::POLLERR | IN | OUT;
        };
        // A killed task does not use the result.
        let Ok(inner) = dev.lock_state() else {
            return bindings::POLLERR;
        };
        match inner.state {
            State::Resuming => OUT,
            State::StopCopy => IN,
            _ if self.buffered() != 0 || dev.has_data(&inner) => IN,
            _ => 0,
        }
    }
}

impl<T: Driver> Link for MigrationFile<T> {
    fn changed(&self) {
        self.dirty_notifier.notify();
    }

    fn end(&self) {
        let link = self.link.lock().take();
        self.free();
        self.dirty_notifier.notify();
        // The caller uses the device, so this is not the last reference.
        drop(link);
    }

    fn buffered(&self) -> usize {
        self.initial.load(Relaxed) + self.again.load(Relaxed)
    }
}

/// The operations of the data files of driver `T`.
struct Operations<T: Driver>(PhantomData<T>);

impl<T: Driver> Operations<T> {
    const TABLE: &'static bindings::file_operations = &bindings::file_operations {
        owner: (&raw const bindings::__this_module).cast_mut(),
        read: Some(read::<T>),
        write: Some(write::<T>),
        poll: Some(poll::<T>),
        unlocked_ioctl: Some(ioctl::<T>),
        compat_ioctl: bindings::compat_ptr_ioctl,
        llseek: Some(bindings::noop_llseek),
        release: Some(release::<T>),
        ..pin_init::zeroed()
    };
}

/// Returns the stream of a data file.
///
/// # Safety
///
/// `file` must be one that [`MigrationFile::file`] made, and stay open for `'a`.
unsafe fn stream<'a, T: Driver>(file: *const bindings::file) -> &'a MigrationFile<T> {
    // SAFETY: An open file owns a reference to its private data.
    unsafe { &*(*file).private_data.cast::<MigrationFile<T>>() }
}

/// Converts a result to the return value of a callback.
fn returned(result: Result<usize>) -> isize {
    match result {
        Ok(done) => done as isize,
        Err(error) => error.to_errno() as isize,
    }
}

/// # Safety
///
/// Called for a file with `Operations::TABLE` that is open.
unsafe extern "C" fn read<T: Driver>(
    file: *mut bindings::file,
    buf: *mut c_char,
    len: usize,
    _pos: *mut bindings::loff_t,
) -> isize {
    // SAFETY: By the requirement of this function.
    let stream = unsafe { stream::<T>(file) };
    returned(stream.read(UserPtr::from_ptr(buf.cast()), len))
}

/// # Safety
///
/// Called for a file with `Operations::TABLE` that is open.
unsafe extern "C" fn write<T: Driver>(
    file: *mut bindings::file,
    buf: *const c_char,
    len: usize,
    _pos: *mut bindings::loff_t,
) -> isize {
    // SAFETY: By the requirement of this function.
    let stream = unsafe { stream::<T>(file) };
    returned(stream.write(UserPtr::from_ptr(buf.cast_mut().cast()), len))
}

/// # Safety
///
/// Called for a file with `Operations::TABLE` that is open; `table` is null or valid.
unsafe extern "C" fn poll<T: Driver>(
    file: *mut bindings::file,
    table: *mut bindings::poll_table_struct,
) -> bindings::__poll_t {
    // SAFETY: By the requirement of this function; `poll()` does not change the position.
    let (stream, file, table) = unsafe {
        (
            stream::<T>(file),
            File::from_raw_file(file),
            PollTable::from_raw(table),
        )
    };
    stream.poll(file, &table)
}

/// # Safety
///
/// Called for a file with `Operations::TABLE` that is open.
unsafe extern "C" fn ioctl<T: Driver>(
    file: *mut bindings::file,
    cmd: c_uint,
    arg: c_ulong,
) -> c_long {
    // SAFETY: By the requirement of this function.
    let stream = unsafe { stream::<T>(file) };
    let result = match cmd {
        VFIO_MIG_GET_PRECOPY_INFO => stream.precopy_info(UserPtr::from_addr(arg)),
        _ => Err(ENOTTY),
    };
    returned(result.map(|()| 0)) as c_long
}

/// # Safety
///
/// Called once for a file with `Operations::TABLE`, when nobody uses it any more.
unsafe extern "C" fn release<T: Driver>(
    _inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: By the requirement of this function. The file owns the reference.
    drop(unsafe { Arc::from_raw((*file).private_data.cast::<MigrationFile<T>>().cast_const()) });
    0
}
