// SPDX-License-Identifier: GPL-2.0

//! The data file as the state machine knows it.

/// The data file of a session.
///
/// The file refers to the state machine, which calls the file by this trait only. All methods are
/// called with the state locked.
pub(super) trait Link: Send + Sync {
    /// The state has changed.
    fn changed(&self);

    /// The session is over.
    fn end(&self);

    /// Returns the bytes that were taken from the session and not read yet.
    fn buffered(&self) -> usize;
}
