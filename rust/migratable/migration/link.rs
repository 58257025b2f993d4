// SPDX-License-Identifier: GPL-2.0

//! What the state machine knows of a data file.

/// The data file of a session.
///
/// The file refers to the state machine, which calls the file by this trait only. All methods are
/// called with the state locked.
pub(super) trait Link: Send + Sync {
    /// The state has changed.
    fn changed(&self);

    /// The session is over.
    fn end(&self);

    /// Bytes taken from the session that were not read yet.
    fn buffered(&self) -> usize;
}
