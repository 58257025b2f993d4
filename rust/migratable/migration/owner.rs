// SPDX-License-Identifier: GPL-2.0

//! Who has a session open, and who asks for one.

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

/// Who drives a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrontEnd {
    /// The v1 region.
    V1,
    /// The v2 ioctls and data files.
    V2,
}

impl FrontEnd {
    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            FrontEnd::V1 => "v1",
            FrontEnd::V2 => "v2",
        }
    }
}

/// What is open while a device is saved or loaded.
pub(super) enum Session {
    /// A save.
    Save(SaveSession<KVVec<u8>>),
    /// A load.
    Load(LoadSession<KVVec<u8>>),
}

/// Who has a session open, and what it has besides.
pub(super) enum Owner {
    /// Nobody: no session is open.
    None,
    /// The v1 region.
    V1 {
        session: Session,
        /// The buffer that is staged and was not consumed.
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
    /// The front end; `None` if no session is open.
    pub(super) fn front_end(&self) -> Option<FrontEnd> {
        match self {
            Owner::None => None,
            Owner::V1 { .. } => Some(FrontEnd::V1),
            Owner::V2 { .. } => Some(FrontEnd::V2),
        }
    }

    /// The session.
    pub(super) fn session(&self) -> Option<&Session> {
        match self {
            Owner::None => None,
            Owner::V1 { session, .. } | Owner::V2 { session, .. } => Some(session),
        }
    }

    /// The session.
    pub(super) fn session_mut(&mut self) -> Option<&mut Session> {
        match self {
            Owner::None => None,
            Owner::V1 { session, .. } | Owner::V2 { session, .. } => Some(session),
        }
    }
}

/// Who asks for a change of state, and what the change may need.
pub(super) enum Request<'a> {
    /// The v1 region, with the data section.
    V1(&'a mut Window),
    /// The v2 ioctls, with the data file of a session that the change begins.
    V2(Option<Arc<dyn Link>>),
}

impl Request<'_> {
    /// The front end.
    pub(super) fn front_end(&self) -> FrontEnd {
        match self {
            Request::V1(_) => FrontEnd::V1,
            Request::V2(_) => FrontEnd::V2,
        }
    }

    /// The owner of the session that this begins. `EINVAL` if a data file lacks.
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
    /// Its bytes.
    pub(super) len: usize,
    /// Whether `data_offset` was read since it was staged, or since it is to be sent again (P23).
    pub(super) offered: bool,
    /// Which one it is, of all of this device.
    pub(super) number: u64,
}
