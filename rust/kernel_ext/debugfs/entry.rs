// SPDX-License-Identifier: GPL-2.0

//! Directories and files, which go when they are dropped.

use kernel::{
    ffi::c_void,
    prelude::*,
    sync::Arc, //
};
use vfio_bindings as bindings;

/// An entry of debugfs, which is removed when this is dropped.
///
/// # Invariants
///
/// `dentry` is what creating the entry returned: this value's to remove, or an error.
pub(super) struct Entry {
    pub(super) dentry: *mut bindings::dentry,
    /// The directory that the entry is in, which lasts longer.
    _parent: Option<Dir>,
}

// SAFETY: An entry may be removed on any thread.
unsafe impl Send for Entry {}

// SAFETY: A shared reference gives the pointer to functions that do their own locking.
unsafe impl Sync for Entry {}

impl Entry {
    /// Creates a file.
    ///
    /// # Safety
    ///
    /// The operations live as long as the module, which they keep loaded, and expect `data`, which is valid
    /// until this entry is dropped.
    pub(super) unsafe fn file(
        dir: &Dir,
        name: &CStr,
        mode: bindings::umode_t,
        data: *mut c_void,
        operations: &'static bindings::file_operations,
    ) -> Self {
        #[cfg(CONFIG_DEBUG_FS)]
        // SAFETY: The name is a string, which is copied. The directory is an entry or an error. The rest is
        // by the requirements of this function.
        let dentry = unsafe {
            bindings::debugfs_create_file_full(
                name.as_char_ptr(),
                mode,
                dir.0.dentry,
                data,
                core::ptr::null(),
                operations,
            )
        };
        #[cfg(not(CONFIG_DEBUG_FS))]
        let (dentry, ..) = (dir.0.dentry, name, mode, data, operations);

        // INVARIANT: Just created.
        Entry {
            dentry,
            _parent: Some(dir.clone()),
        }
    }
}

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
pub struct Dir(pub(super) Arc<Entry>);

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
}

/// A file, which is removed when this is dropped.
pub struct File<T> {
    // Dropped in this order: nobody reads what is shown once the entry is gone.
    pub(super) _entry: Entry,
    pub(super) _shown: KBox<T>,
}
