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

mod counter;
mod entry;
mod flag;
mod number;
mod show;

pub use counter::Counter;
pub use entry::{
    Dir,
    File, //
};
pub use flag::Flag;
pub use number::Number;
pub use show::Show;

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
