// SPDX-License-Identifier: GPL-2.0

//! The owner of the open session, and the request for one.

use super::{
    data_section::Window, //
    link::Link,
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use migration::{
    load::LoadSession,
    save::SaveSession, //
};

/// The interface that drives a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrontEnd {
    /// The v1 region.
    V1,
    /// The v2 ioctls and data files.
    V2,
}

impl FrontEnd {
    /// Returns its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            FrontEnd::V1 => "v1",
            FrontEnd::V2 => "v2",
        }
    }
}

/// The session that is open while a device is saved or loaded.
pub(super) enum Session {
    /// A save.
    Save(SaveSession<KVVec<u8>>),
    /// A load.
    Load(LoadSession<KVVec<u8>>),
}

/// The front end that has a session open, and the session.
pub(super) enum Owner {
    /// No session is open.
    None,
    /// The v1 region.
    V1 {
        session: Session,
        /// The buffer that is staged and not consumed.
        staged: Option<Staged>,
    },
    /// The v2 ioctls and data files.
    V2 {
        session: Session,
        /// The data file.
        file: Arc<dyn Link>,
    },
}

impl Owner {
    /// Returns the front end. `None` if no session is open.
    pub(super) fn front_end(&self) -> Option<FrontEnd> {
        match self {
            Owner::None => None,
            Owner::V1 { .. } => Some(FrontEnd::V1),
            Owner::V2 { .. } => Some(FrontEnd::V2),
        }
    }

    /// Returns the session.
    pub(super) fn session(&self) -> Option<&Session> {
        match self {
            Owner::None => None,
            Owner::V1 { session, .. } | Owner::V2 { session, .. } => Some(session),
        }
    }

    /// Returns the session.
    pub(super) fn session_mut(&mut self) -> Option<&mut Session> {
        match self {
            Owner::None => None,
            Owner::V1 { session, .. } | Owner::V2 { session, .. } => Some(session),
        }
    }
}

/// The front end that asks for a change of state, and what the change may need.
pub(super) enum Request<'a> {
    /// The v1 region, with the data section.
    V1(&'a mut Window),
    /// The v2 ioctls, with the data file of a session that the change begins.
    V2(Option<Arc<dyn Link>>),
}

impl Request<'_> {
    /// Returns the front end.
    pub(super) fn front_end(&self) -> FrontEnd {
        match self {
            Request::V1(_) => FrontEnd::V1,
            Request::V2(_) => FrontEnd::V2,
        }
    }

    /// Returns the owner of the session that this begins. `EINVAL` if there is no data file.
    pub(super) fn owner(&mut self, session: Session) -> Result<Owner> {
        Ok(match self {
            Request::V1(_) => Owner::V1 {
                session,
                staged: None,
            },
            Request::V2(file) => Owner::V2 {
                session,
                file: file.take().ok_or(EINVAL)?,
            },
        })
    }
}

/// The buffer that v1 has staged.
#[derive(Clone, Copy)]
pub(super) struct Staged {
    /// The number of bytes.
    pub(super) len: usize,
    /// Whether `data_offset` was read since it was staged, or since it is to be sent again (P23).
    pub(super) offered: bool,
    /// Its number, counted from the creation of the device.
    pub(super) number: u64,
}
