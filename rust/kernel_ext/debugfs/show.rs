// SPDX-License-Identifier: GPL-2.0

//! Files that show a value, which only root reads.

use super::entry::{
    Dir,
    Entry,
    File, //
};
use core::marker::PhantomData;
use kernel::{
    ffi::c_void,
    prelude::*,
    seq_file::SeqFile,
    sync::Arc, //
};
use vfio_bindings as bindings;

/// What a file shows.
pub trait Show: Send + Sync {
    /// Prints the contents. Called once per `open()` that reads, and again with a larger buffer if
    /// the text did not fit.
    ///
    /// An error becomes the errno of `read()`.
    fn show(&self, out: &SeqFile) -> Result;
}

impl<T: Show + ?Sized> Show for Arc<T> {
    fn show(&self, out: &SeqFile) -> Result {
        (**self).show(out)
    }
}

impl Dir {
    /// Creates a file in this directory, which only root reads.
    pub fn file<T: Show>(&self, name: &CStr, shown: T) -> Result<File<T>> {
        let shown = KBox::new(shown, GFP_KERNEL)?;
        // SAFETY: The operations expect a `T` as data. It is in a box, and `File` drops it after it has
        // removed the file.
        let entry = unsafe {
            Entry::file(
                self,
                name,
                0o400,
                (&raw const *shown).cast_mut().cast::<c_void>(),
                Table::<T>::OPS,
            )
        };
        Ok(File {
            _entry: entry,
            _shown: shown,
        })
    }
}

/// The operations of a file that shows a `T`.
struct Table<T: Show>(PhantomData<T>);

impl<T: Show> Table<T> {
    const OPS: &'static bindings::file_operations = &bindings::file_operations {
        // An open file is a reference to the module.
        owner: (&raw const bindings::__this_module).cast_mut(),
        open: Some(Self::open),
        read: Some(bindings::seq_read),
        llseek: Some(bindings::seq_lseek),
        release: Some(bindings::single_release),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// Called by debugfs to open a file that [`Dir::file`] created, and that is not removed before
    /// this returns.
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: By the requirement of this function; `i_private` is what the file was created with.
        unsafe { bindings::single_open(file, Some(Self::show), (*inode).i_private) }
    }

    /// # Safety
    ///
    /// Called by `seq_read()` of a file that [`Table::open`] opened. Debugfs does not remove the file
    /// during a read, and does not call this after it.
    unsafe extern "C" fn show(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
        // SAFETY: `single_open()` has stored what the file was created with: a `T` that `File` keeps
        // until the file is removed.
        let shown = unsafe { &*(*seq).private.cast::<T>() };
        // SAFETY: `seq_read()` holds the lock of the file.
        let out = unsafe { SeqFile::from_raw(seq) };

        match shown.show(out) {
            Ok(()) => 0,
            Err(error) => error.to_errno(),
        }
    }
}
