// SPDX-License-Identifier: GPL-2.0

//! Files of debugfs.
//!
//! The `kernel` crate of 7.2 and 7.3 has files too, but their operations have no owner. Such a file
//! does not keep the module loaded while it is open, and its last close calls into memory of a
//! module that may be gone. The operations here have an owner: `rmmod` is refused while a file is
//! open.
//!
//! Removing a file waits for the reads in progress. Later reads of a file that is still open fail
//! with `EIO`, and its close does not touch what the file showed.
//!
//! Debugfs is optional: where the kernel has none, or cannot create an entry, nothing is shown and
//! nobody is told.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h)

use core::{
    marker::PhantomData,
    sync::atomic::{
        AtomicBool,
        AtomicU64,
        Ordering::Relaxed, //
    },
};
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

/// One counter: a number that only the file shows.
///
/// Its operations are a few instructions and can be called in any context.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one more.
    #[inline]
    pub fn add_one(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Declares a set of counters, which is what one file shows: a line `NAME: VALUE` for each.
///
/// A new counter is one line here.
#[macro_export]
macro_rules! counters {
    (
        $(#[$doc:meta])*
        $vis:vis struct $name:ident {
            $($(#[$field_doc:meta])* $field:ident,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Default)]
        $vis struct $name {
            $($(#[$field_doc])* $vis $field: $crate::debugfs::Counter,)*
        }

        impl $crate::debugfs::Show for $name {
            fn show(&self, out: &::kernel::seq_file::SeqFile) -> ::kernel::error::Result {
                $(::kernel::seq_print!(
                    out,
                    "{}: {}\n",
                    ::core::stringify!($field),
                    self.$field.get()
                );)*
                Ok(())
            }
        }
    };
}

/// An entry of debugfs, which is removed when this is dropped.
///
/// # Invariants
///
/// `dentry` is what creating the entry returned: this value's to remove, or an error.
struct Entry {
    dentry: *mut bindings::dentry,
    /// The directory that the entry is in, which lasts longer.
    _parent: Option<Dir>,
}

// SAFETY: An entry may be removed on any thread.
unsafe impl Send for Entry {}

// SAFETY: A shared reference gives the pointer to functions that do their own locking.
unsafe impl Sync for Entry {}

impl Drop for Entry {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; errors are ignored there.
        #[cfg(CONFIG_DEBUG_FS)]
        unsafe {
            bindings::debugfs_remove(self.dentry)
        };
    }
}

/// A directory.
#[derive(Clone)]
pub struct Dir(Arc<Entry>);

impl Dir {
    /// Creates the directory `name`, at the top or in another one.
    pub fn new(name: &CStr, parent: Option<&Dir>) -> Result<Self> {
        let at = parent.map_or(core::ptr::null_mut(), |dir| dir.0.dentry);
        #[cfg(CONFIG_DEBUG_FS)]
        // SAFETY: The name is a string, which is copied. The parent is null, an entry or an error.
        let dentry = unsafe { bindings::debugfs_create_dir(name.as_char_ptr(), at) };
        #[cfg(not(CONFIG_DEBUG_FS))]
        let (dentry, _) = (at, name);

        // INVARIANT: Just created.
        let entry = Entry {
            dentry,
            _parent: parent.cloned(),
        };
        Ok(Self(Arc::new(entry, GFP_KERNEL)?))
    }

    /// Creates a file in this directory, which only root reads.
    pub fn file<T: Show>(&self, name: &CStr, shown: T) -> Result<File<T>> {
        let shown = KBox::new(shown, GFP_KERNEL)?;
        #[cfg(CONFIG_DEBUG_FS)]
        // SAFETY: The name is a string, which is copied. The directory is an entry or an error. The
        // operations live as long as the module, which they keep loaded, and expect a `T` as data.
        // The `T` is in a box, and `File` drops it after it has removed the file.
        let dentry = unsafe {
            bindings::debugfs_create_file_full(
                name.as_char_ptr(),
                0o400,
                self.0.dentry,
                (&raw const *shown).cast_mut().cast::<c_void>(),
                core::ptr::null(),
                Table::<T>::OPS,
            )
        };
        #[cfg(not(CONFIG_DEBUG_FS))]
        let (dentry, _) = (self.0.dentry, name);

        // INVARIANT: Just created.
        let entry = Entry {
            dentry,
            _parent: Some(self.clone()),
        };
        Ok(File {
            _entry: entry,
            _shown: shown,
        })
    }
}

/// A flag that root reads and writes: `Y` or `N`. Its file is removed when this is dropped.
///
/// The kernel's own operations for a `bool` serve the file. They are not part of the module, so an
/// open file does not keep it loaded, and its close touches nothing of it.
pub struct Flag {
    dir: Dir,
    name: &'static CStr,
    value: AtomicBool,
}

impl Flag {
    /// Creates the file of a flag that is set.
    pub fn new(name: &'static CStr, dir: &Dir) -> Result<Arc<Self>> {
        let flag = Arc::new(
            Self {
                dir: dir.clone(),
                name,
                value: AtomicBool::new(true),
            },
            GFP_KERNEL,
        )?;
        #[cfg(CONFIG_DEBUG_FS)]
        // SAFETY: The name is a string, which is copied. The directory is an entry or an error. An
        // `AtomicBool` has the layout of a `bool`, and `drop()` removes the file before it is gone.
        unsafe {
            bindings::debugfs_create_bool(
                name.as_char_ptr(),
                0o600,
                dir.0.dentry,
                flag.value.as_ptr(),
            )
        };
        Ok(flag)
    }

    /// Returns whether the flag is set.
    pub fn is_set(&self) -> bool {
        self.value.load(Relaxed)
    }
}

impl Drop for Flag {
    fn drop(&mut self) {
        // SAFETY: The name is a string. The directory is an entry or an error, which is ignored there.
        #[cfg(CONFIG_DEBUG_FS)]
        unsafe {
            bindings::debugfs_lookup_and_remove(self.name.as_char_ptr(), self.dir.0.dentry)
        };
        #[cfg(not(CONFIG_DEBUG_FS))]
        let _ = (self.name, &self.dir);
    }
}

/// A file, which is removed when this is dropped.
pub struct File<T: Show> {
    // Dropped in this order: nobody reads what is shown once the entry is gone.
    _entry: Entry,
    _shown: KBox<T>,
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
