// SPDX-License-Identifier: GPL-2.0

//! Files with a flag that root reads and writes.

use super::entry::Dir;
use core::sync::atomic::{
    AtomicBool,
    Ordering::Relaxed, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use vfio_bindings as bindings;

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
