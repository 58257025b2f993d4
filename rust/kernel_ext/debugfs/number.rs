// SPDX-License-Identifier: GPL-2.0

//! Files with a number that root reads and writes.
//!
//! The kernel's simple attributes parse and print it. The operations here have an owner, as those of other
//! files of this module.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)

use super::entry::{
    Dir,
    Entry,
    File, //
};
use core::marker::PhantomData;
use kernel::{
    ffi::c_void,
    prelude::*,
    sync::Arc, //
};
use vfio_bindings as bindings;

/// A number in a file.
pub trait Number: Send + Sync {
    /// Returns the number.
    fn get(&self) -> u64;

    /// Sets the number. An error becomes the errno of `write()`.
    fn set(&self, value: u64) -> Result;
}

impl<T: Number + ?Sized> Number for Arc<T> {
    fn get(&self) -> u64 {
        (**self).get()
    }

    fn set(&self, value: u64) -> Result {
        (**self).set(value)
    }
}

impl Dir {
    /// Creates a file in this directory with a number, which only root reads and writes.
    pub fn number<T: Number>(&self, name: &CStr, number: T) -> Result<File<T>> {
        let number = KBox::new(number, GFP_KERNEL)?;
        // SAFETY: The operations expect a `T` as data. It is in a box, and `File` drops it after it has
        // removed the file.
        let entry = unsafe {
            Entry::file(
                self,
                name,
                0o600,
                (&raw const *number).cast_mut().cast::<c_void>(),
                Table::<T>::OPS,
            )
        };
        Ok(File {
            _entry: entry,
            _shown: number,
        })
    }
}

/// The operations of a file with a `T`.
struct Table<T: Number>(PhantomData<T>);

impl<T: Number> Table<T> {
    const OPS: &'static bindings::file_operations = &bindings::file_operations {
        // An open file is a reference to the module.
        owner: (&raw const bindings::__this_module).cast_mut(),
        open: Some(Self::open),
        read: Some(bindings::simple_attr_read),
        write: Some(bindings::simple_attr_write),
        release: Some(bindings::simple_attr_release),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// Called by debugfs to open a file that [`Dir::number`] created, and that is not removed before this
    /// returns.
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: By the requirement of this function. `simple_attr_open()` gives `i_private` to `get` and
        // `set`: what the file was created with.
        unsafe {
            bindings::simple_attr_open(
                inode,
                file,
                Some(Self::get),
                Some(Self::set),
                c"%llu\n".as_char_ptr(),
            )
        }
    }

    /// # Safety
    ///
    /// Called by a read of a file that [`Table::open`] opened. Debugfs does not remove the file during a
    /// read, and does not call this after it.
    unsafe extern "C" fn get(data: *mut c_void, value: *mut u64) -> c_int {
        // SAFETY: `File` keeps the `T` until the file is removed, and `value` is valid for writes.
        unsafe { *value = (*data.cast::<T>()).get() };
        0
    }

    /// # Safety
    ///
    /// As for [`Table::get`], by a write.
    unsafe extern "C" fn set(data: *mut c_void, value: u64) -> c_int {
        // SAFETY: `File` keeps the `T` until the file is removed.
        match unsafe { &*data.cast::<T>() }.set(value) {
            Ok(()) => 0,
            Err(error) => error.to_errno(),
        }
    }
}
