// SPDX-License-Identifier: GPL-2.0

//! Character devices whose name is known at run time.
//!
//! The `kernel` crate has misc devices with a name that is a constant, and without `poll()`. Such a device
//! is a part of a pinned value; this one is a value by itself.
//!
//! A file that is still open when the device goes keeps what it serves, and the module.
//!
//! C header: [`include/linux/miscdevice.h`](srctree/include/linux/miscdevice.h)

use core::marker::PhantomData;
use kernel::{
    error::to_result,
    ffi::{
        c_char,
        c_int, //
    },
    fs::{
        file::flags::O_NONBLOCK,
        File, //
    },
    prelude::*,
    str::CString,
    sync::{
        poll::PollTable,
        Arc, //
    },
    types::Opaque,
    uaccess::UserPtr, //
};
use vfio_bindings as bindings;

/// What the files of a character device do.
///
/// All functions may sleep, and are called concurrently.
pub trait Operations: Send + Sync {
    /// A file is being opened. An error is the errno of `open()`.
    fn open(&self) -> Result;

    /// An opened file is closed.
    fn release(&self);

    /// Reads at most `len` bytes into the user's `buf`, and returns how many. Waits for the first one if
    /// `wait`.
    fn read(&self, buf: UserPtr, len: usize, wait: bool) -> Result<usize>;

    /// Writes at most `len` bytes of the user's `buf`, and returns how many. Waits until it can write one
    /// if `wait`.
    fn write(&self, buf: UserPtr, len: usize, wait: bool) -> Result<usize>;

    /// Registers for changes, and returns the events that are pending: `POLL*`.
    fn poll(&self, file: &File, table: &PollTable<'_>) -> u32;
}

/// What a device consists of.
#[repr(C)]
struct Inner<T> {
    misc: Opaque<bindings::miscdevice>,
    _name: CString,
    operations: Arc<T>,
}

/// A character device, which is removed when this is dropped.
///
/// # Invariants
///
/// `inner.misc` is registered.
pub struct CharDevice<T: Operations + 'static> {
    inner: Pin<KBox<Inner<T>>>,
}

// SAFETY: A misc device may be removed on any thread, and `T` is `Sync`.
unsafe impl<T: Operations> Send for CharDevice<T> {}

// SAFETY: A shared reference gives no access to the misc device.
unsafe impl<T: Operations> Sync for CharDevice<T> {}

impl<T: Operations> CharDevice<T> {
    /// Creates the device `/dev/NAME`, which only root opens unless udev says otherwise.
    pub fn new(name: CString, operations: Arc<T>) -> Result<Self> {
        let misc = bindings::miscdevice {
            minor: bindings::MISC_DYNAMIC_MINOR as c_int,
            name: name.as_char_ptr(),
            fops: Table::<T>::OPERATIONS,
            mode: 0o600,
            ..Default::default()
        };
        let inner = KBox::pin(
            Inner {
                misc: Opaque::new(misc),
                _name: name,
                operations,
            },
            GFP_KERNEL,
        )?;
        // SAFETY: The misc device is pinned, its name and operations live as long, and `drop` removes it.
        to_result(unsafe { bindings::misc_register(inner.misc.get()) })?;
        // INVARIANT: Registered just now.
        Ok(Self { inner })
    }
}

impl<T: Operations> Drop for CharDevice<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::misc_deregister(self.inner.misc.get()) };
    }
}

/// The file operations that call a `T`.
struct Table<T: Operations>(PhantomData<T>);

impl<T: Operations> Table<T> {
    const OPERATIONS: &'static bindings::file_operations = &bindings::file_operations {
        // An open file is a reference to the module.
        owner: (&raw const bindings::__this_module).cast_mut(),
        open: Some(open::<T>),
        release: Some(release::<T>),
        read: Some(read::<T>),
        write: Some(write::<T>),
        poll: Some(poll::<T>),
        llseek: Some(bindings::noop_llseek),
        ..pin_init::zeroed()
    };
}

/// Returns what an open file serves.
///
/// # Safety
///
/// `file` must have been opened by [`open`], and stay open for `'a`.
unsafe fn operations<'a, T>(file: *const bindings::file) -> &'a T {
    // SAFETY: An open file owns a reference to its private data.
    unsafe { &*(*file).private_data.cast::<T>() }
}

/// Returns whether a call on this file waits.
///
/// # Safety
///
/// `file` must be open.
unsafe fn waits(file: *mut bindings::file) -> bool {
    // SAFETY: By the requirement of this function; the position is not used.
    unsafe { File::from_raw_file(file) }.flags() & O_NONBLOCK == 0
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
/// Called by `misc_open()`, which has stored the misc device in the file and keeps it registered meanwhile.
unsafe extern "C" fn open<T: Operations>(
    inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: By the requirement of this function. The misc device is the first field of `Inner`.
    let operations = unsafe {
        bindings::stream_open(inode, file);
        let inner = (*file).private_data.cast::<Inner<T>>();
        (*inner).operations.clone()
    };
    if let Err(error) = operations.open() {
        return error.to_errno();
    }
    // SAFETY: The file is being opened, and nobody else uses it.
    unsafe { (*file).private_data = Arc::into_raw(operations).cast_mut().cast() };
    0
}

/// # Safety
///
/// Called once for a file that [`open`] opened, when nobody uses it any more.
unsafe extern "C" fn release<T: Operations>(
    _inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: By the requirement of this function. The file owns the reference.
    let operations = unsafe { Arc::from_raw((*file).private_data.cast::<T>().cast_const()) };
    operations.release();
    0
}

/// # Safety
///
/// Called for an open file.
unsafe extern "C" fn read<T: Operations>(
    file: *mut bindings::file,
    buf: *mut c_char,
    len: usize,
    _pos: *mut bindings::loff_t,
) -> isize {
    // SAFETY: By the requirement of this function.
    let (operations, wait) = unsafe { (operations::<T>(file), waits(file)) };
    returned(operations.read(UserPtr::from_ptr(buf.cast()), len, wait))
}

/// # Safety
///
/// Called for an open file.
unsafe extern "C" fn write<T: Operations>(
    file: *mut bindings::file,
    buf: *const c_char,
    len: usize,
    _pos: *mut bindings::loff_t,
) -> isize {
    // SAFETY: By the requirement of this function.
    let (operations, wait) = unsafe { (operations::<T>(file), waits(file)) };
    returned(operations.write(UserPtr::from_ptr(buf.cast_mut().cast()), len, wait))
}

/// # Safety
///
/// Called for an open file; `table` is null or valid.
unsafe extern "C" fn poll<T: Operations>(
    file: *mut bindings::file,
    table: *mut bindings::poll_table_struct,
) -> bindings::__poll_t {
    // SAFETY: By the requirement of this function; `poll()` does not change the position.
    let (operations, file, table) = unsafe {
        (
            operations::<T>(file),
            File::from_raw_file(file),
            PollTable::from_raw(table),
        )
    };
    operations.poll(file, &table)
}
