// SPDX-License-Identifier: GPL-2.0

//! The file that v2 moves a device's state through (P43-P46).
//!
//! It belongs to one session, and outlives it: whoever holds it may be slow. So it refers to the
//! session only until that ends, and then gives errors. It keeps the module loaded, but neither the
//! device nor its memory. Its buffer is allocated when it is first used and freed when the session
//! ends, so a user who collects files of former sessions holds no memory by them.
//!
//! # Locks
//!
//! ```text
//!   io         one read or write at a time; held over the copy to or from the user
//!     state    the state machine's
//!       link   what is moved
//! ```
//!
//! `io` may be held for as long as a user's memory takes, so who waits for it can be killed. Ending a
//! session does not wait for it, and neither does a page fault. Who ends a session frees the buffer if he gets `io` at once. Else the
//! one who has it does, as he looks after unlocking it whether the session is over.

use super::{
    staging::Window,
    state_machine::{
        link::Link,
        StateMachine, //
    },
};
use crate::{
    bindings,
    handle::Core,
    memory::Dirtied,
    mutex::{
        self,
        new_killable_mutex, //
    },
    refuse, //
};
use core::{
    mem::size_of,
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        AtomicUsize,
        Ordering, //
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
        poll::PollTable,
        Arc,
        Mutex, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};
use migration::state::State;

/// Bytes handed over at once, which is the most that one `read()` or `write()` moves.
const BUFFER: usize = 1 << 20;

/// Nothing to read now, but maybe later.
const ENOMSG: i32 = -42;

const VFIO_MIG_GET_PRECOPY_INFO: u32 = _IO(
    bindings::VFIO_TYPE as u32,
    bindings::VFIO_BASE + 21, //
);

/// What a stream moves, until it ends.
#[derive(Clone)]
struct Moved {
    machine: Arc<StateMachine>,
    /// For the log.
    core: Arc<Core>,
}

/// What `io` locks: bytes on their way.
struct Buffer {
    /// Empty until it is used.
    bytes: KVVec<u8>,
    /// The first that was not handed over.
    at: usize,
    /// The end of those that the session sends for the first time, which come first.
    initial: usize,
    /// The end of those that are valid.
    end: usize,
}

impl Buffer {
    /// A buffer without memory.
    const fn new() -> Self {
        Self {
            bytes: KVVec::new(),
            at: 0,
            initial: 0,
            end: 0,
        }
    }

    /// Its memory, all of it.
    fn memory(&mut self) -> Result<&mut [u8]> {
        if self.bytes.is_empty() {
            self.bytes = KVVec::from_elem(0, BUFFER, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(&mut self.bytes)
    }
}

/// What a data file and its session share.
#[pin_data]
pub(super) struct Stream {
    /// What is moved, until the session ends.
    #[pin]
    link: Mutex<Option<Moved>>,
    #[pin]
    io: mutex::Mutex<Buffer>,
    /// Bytes in the buffer that are sent for the first time, for who does not wait for `io`.
    initial: AtomicUsize,
    /// All others in the buffer.
    again: AtomicUsize,
    dirtied: Arc<Dirtied>,
}

impl Stream {
    /// A stream of a session that is about to begin.
    pub(super) fn new(
        machine: Arc<StateMachine>,
        core: Arc<Core>,
        dirtied: Arc<Dirtied>,
    ) -> Result<Arc<Self>> {
        let link = Moved { machine, core };
        Arc::pin_init(
            pin_init!(Self {
                link <- new_mutex!(Some(link), "migration stream"),
                io <- new_killable_mutex!(Buffer::new(), "migration stream buffer"),
                initial: AtomicUsize::new(0),
                again: AtomicUsize::new(0),
                dirtied,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Frees the buffer of a session that is over, unless somebody is using it.
    fn free(&self) {
        if let Some(mut io) = self.io.try_lock() {
            *io = Buffer::new();
            self.count(&io);
        }
    }

    /// Has `f` move bytes through the buffer, one caller at a time.
    fn transfer(&self, f: impl FnOnce(&mut Buffer) -> Result<usize>) -> Result<usize> {
        let result = self.io.lock().and_then(|mut io| f(&mut io));
        if self.link.lock().is_none() {
            // Whoever ended the session may have found the buffer locked.
            self.free();
        }
        result
    }

    /// Tells how much is in the buffer.
    fn count(&self, io: &Buffer) {
        let initial = io.initial.saturating_sub(io.at);
        self.initial.store(initial, Ordering::Relaxed);
        self.again
            .store(io.end - io.at - initial, Ordering::Relaxed);
    }

    /// What is moved; `ENODEV` if the session is over.
    fn link(&self) -> Result<Moved> {
        self.link.lock().clone().ok_or(ENODEV)
    }

    /// The state machine; `ENODEV` if the session is over.
    fn machine(&self) -> Result<Arc<StateMachine>> {
        Ok(self.link()?.machine)
    }

    /// A file for the user: to read from while saving, else to write to.
    pub(super) fn file(self: &Arc<Self>, saving: bool) -> Result<DataFile> {
        let (name, flags) = if saving {
            (c"[vfio-save]", bindings::O_RDONLY)
        } else {
            (c"[vfio-load]", bindings::O_WRONLY)
        };
        let this = Arc::into_raw(self.clone());
        // SAFETY: Name and operations live for ever. On success the file owns `this`.
        let file = from_err_ptr(unsafe {
            bindings::anon_inode_getfile(
                name.as_char_ptr(),
                OPERATIONS,
                this.cast_mut().cast::<c_void>(),
                flags as i32,
            )
        })
        .inspect_err(|_| {
            // SAFETY: There is no file, so the reference is still ours.
            drop(unsafe { Arc::from_raw(this) });
        })?;
        let file = NonNull::new(file).ok_or(ENOMEM)?;
        // SAFETY: A new file, which has no position. Does not fail.
        unsafe { bindings::stream_open(ptr::null_mut(), file.as_ptr()) };
        // INVARIANT: Made just now.
        Ok(DataFile(file))
    }

    /// `read()`: at most what one buffer holds.
    fn read(&self, to: UserPtr, len: usize) -> Result<usize> {
        if len == 0 {
            return Ok(0);
        }
        self.transfer(|io| {
            let machine = self.machine()?;
            if io.at == io.end {
                self.refill(&machine, io)?;
                if io.end == 0 {
                    return Ok(0);
                }
            }
            let part = io.bytes.get(io.at..io.end).unwrap_or_default();
            let part = part.get(..len).unwrap_or(part);
            // SAFETY: The slice is valid for reads. The lock that is held is none a page fault takes.
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

    /// Fills the buffer, which was handed over. If it stays empty, the stream has ended.
    fn refill(&self, machine: &StateMachine, io: &mut Buffer) -> Result {
        (io.at, io.initial, io.end) = (0, 0, 0);
        let memory = io.memory()?;
        let len = memory.len();
        // SAFETY: The buffer is valid for its length, and `io` is locked as long as the window exists.
        let mut window = unsafe { Window::new(memory.as_mut_ptr(), len) };
        let mut inner = machine.lock()?;
        if !inner.is_file(self) {
            return Err(ENODEV);
        }
        let before = machine.precopy_info(&inner);
        io.end = machine.fill(&mut inner, &mut window, len)?;
        let after = machine.precopy_info(&inner);
        let initial = before.initial_bytes.saturating_sub(after.initial_bytes);
        io.initial = match (before.initial_bytes, before.dirty_bytes) {
            (0, _) => 0,
            // Estimates leave out the headers of records that ends of buffers cut.
            (_, 0) => io.end,
            // What is initial goes first.
            _ => io.end.min(usize::try_from(initial)?),
        };
        self.count(io);
        match inner.state() {
            State::StopCopy => Ok(()),
            _ if io.end == 0 => Err(Error::from_errno(ENOMSG)),
            _ => Ok(()),
        }
    }

    /// `write()`: at most what one buffer holds, so that a call ends soon. Fewer if a load fails in the
    /// middle with an errno that passes; what was not taken may be written again.
    fn write(&self, from: UserPtr, len: usize) -> Result<usize> {
        if len == 0 {
            return Ok(0);
        }
        self.transfer(|io| {
            let machine = self.machine()?;
            let memory = io.memory()?;
            let len = memory.len().min(len);
            let part = memory.get_mut(..len).unwrap_or_default();
            UserSlice::new(from, len).reader().read_slice(part)?;

            // SAFETY: As in `refill`.
            let window = unsafe { Window::new(memory.as_mut_ptr(), len) };
            let mut inner = machine.lock()?;
            if !inner.is_file(self) {
                return Err(ENODEV);
            }
            machine.feed(&mut inner, &window, len)
        })
    }

    /// `VFIO_MIG_GET_PRECOPY_INFO` (P45).
    fn precopy_info(&self, arg: UserPtr) -> Result {
        const SIZE: usize = size_of::<bindings::vfio_precopy_info>();

        // All of the structure has to be there, whatever it says.
        let mut bytes = [0; SIZE];
        UserSlice::new(arg, SIZE).reader().read_slice(&mut bytes)?;
        let [a, b, c, d, ..] = bytes;
        let argsz = u32::from_ne_bytes([a, b, c, d]);
        // A session that is over is not in pre-copy either.
        let Moved { machine, core } = self.link().map_err(|_| EINVAL)?;
        if (argsz as usize) < SIZE {
            refuse!(core, "precopy info: argsz {argsz} is less than {SIZE}");
            return Err(EINVAL);
        }
        let info = {
            let inner = machine.lock()?;
            if !inner.is_file(self) {
                return Err(EINVAL);
            }
            if !matches!(inner.state(), State::PreCopy | State::PreCopyP2p) {
                refuse!(core, "precopy info: {} is no pre-copy state", inner.state());
                return Err(EINVAL);
            }
            machine.precopy_info(&inner)
        };
        let initial = self.initial.load(Ordering::Relaxed) as u64;
        let again = self.again.load(Ordering::Relaxed) as u64;
        let mut writer = UserSlice::new(arg, SIZE).writer();
        writer.write::<u32>(&argsz)?;
        // Flags: what was sent first is never followed by more of its kind.
        writer.write::<u32>(&0)?;
        writer.write::<u64>(&info.initial_bytes.saturating_add(initial))?;
        writer.write::<u64>(&info.dirty_bytes.saturating_add(again))
    }

    /// `poll()` (P46).
    fn poll(&self, file: &File, table: &PollTable<'_>) -> u32 {
        const IN: u32 = bindings::POLLIN | bindings::POLLRDNORM;
        const OUT: u32 = bindings::POLLOUT | bindings::POLLWRNORM;

        self.dirtied.register(file, table);
        let Ok(machine) = self.machine() else {
            return bindings::POLLERR | IN | OUT;
        };
        // A task that is killed does not look at the result.
        let Ok(inner) = machine.lock() else {
            return bindings::POLLERR;
        };
        match inner.state() {
            State::Resuming => OUT,
            State::StopCopy => IN,
            _ if self.buffered() != 0 || machine.has_data(&inner) => IN,
            _ => 0,
        }
    }
}

impl Link for Stream {
    fn changed(&self) {
        self.dirtied.notify();
    }

    fn end(&self) {
        let link = self.link.lock().take();
        self.free();
        self.dirtied.notify();
        // The caller has a reference to the state machine, so this is not the last.
        drop(link);
    }

    fn buffered(&self) -> usize {
        self.initial.load(Ordering::Relaxed) + self.again.load(Ordering::Relaxed)
    }
}

/// A data file that no user has yet.
///
/// # Invariants
///
/// A reference to a file is this one's.
pub(crate) struct DataFile(NonNull<bindings::file>);

impl DataFile {
    /// Gives the reference away.
    pub(crate) fn into_raw(self) -> *mut bindings::file {
        core::mem::ManuallyDrop::new(self).0.as_ptr()
    }
}

impl Drop for DataFile {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the invariant.
        unsafe { bindings::fput(self.0.as_ptr()) };
    }
}

/// The operations of a data file.
const OPERATIONS: &bindings::file_operations = &bindings::file_operations {
    owner: (&raw const bindings::__this_module).cast_mut(),
    read: Some(read),
    write: Some(write),
    poll: Some(poll),
    unlocked_ioctl: Some(ioctl),
    compat_ioctl: bindings::compat_ptr_ioctl,
    llseek: Some(bindings::noop_llseek),
    release: Some(release),
    ..pin_init::zeroed()
};

/// The stream of a data file.
///
/// # Safety
///
/// `file` must be one that [`Stream::file`] made, and stay open for `'a`.
unsafe fn stream<'a>(file: *const bindings::file) -> &'a Stream {
    // SAFETY: An open file owns a reference to what its private data points to.
    unsafe { &*(*file).private_data.cast::<Stream>() }
}

/// What a callback returns.
fn returned(result: Result<usize>) -> isize {
    match result {
        Ok(done) => done as isize,
        Err(error) => error.to_errno() as isize,
    }
}

/// # Safety
///
/// Called for a file with `OPERATIONS` that is open.
unsafe extern "C" fn read(
    file: *mut bindings::file,
    buf: *mut c_char,
    len: usize,
    _pos: *mut bindings::loff_t,
) -> isize {
    // SAFETY: By the requirement of this function.
    let stream = unsafe { stream(file) };
    returned(stream.read(UserPtr::from_ptr(buf.cast()), len))
}

/// # Safety
///
/// Called for a file with `OPERATIONS` that is open.
unsafe extern "C" fn write(
    file: *mut bindings::file,
    buf: *const c_char,
    len: usize,
    _pos: *mut bindings::loff_t,
) -> isize {
    // SAFETY: By the requirement of this function.
    let stream = unsafe { stream(file) };
    returned(stream.write(UserPtr::from_ptr(buf.cast_mut().cast()), len))
}

/// # Safety
///
/// Called for a file with `OPERATIONS` that is open; `table` is null or valid.
unsafe extern "C" fn poll(
    file: *mut bindings::file,
    table: *mut bindings::poll_table_struct,
) -> bindings::__poll_t {
    // SAFETY: By the requirement of this function; `poll()` does not change the position.
    let (stream, file, table) = unsafe {
        (
            stream(file),
            File::from_raw_file(file),
            PollTable::from_raw(table),
        )
    };
    stream.poll(file, &table)
}

/// # Safety
///
/// Called for a file with `OPERATIONS` that is open.
unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
    // SAFETY: By the requirement of this function.
    let stream = unsafe { stream(file) };
    let result = match cmd {
        VFIO_MIG_GET_PRECOPY_INFO => stream.precopy_info(UserPtr::from_addr(arg)),
        _ => Err(ENOTTY),
    };
    returned(result.map(|()| 0)) as c_long
}

/// # Safety
///
/// Called once for a file with `OPERATIONS`, when nobody uses it any more.
unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: By the requirement of this function. The reference is the file's.
    drop(unsafe { Arc::from_raw((*file).private_data.cast::<Stream>().cast_const()) });
    0
}
