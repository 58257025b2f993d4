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
    incoming::Incoming,
    load::LoadSession,
    save::SaveSession, //
};
use vfio::trace::Cause;

/// The interface that drives a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrontEnd {
    /// The v1 region.
    V1,
    /// The region of v7.
    V7,
    /// The region of 2018.
    V2018,
    /// The v2 ioctls and data files.
    V2,
}

impl FrontEnd {
    /// Returns its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            FrontEnd::V1 => "v1",
            FrontEnd::V7 => "v7",
            FrontEnd::V2018 => "2018",
            FrontEnd::V2 => "v2",
        }
    }

    /// Returns the cause of its changes of state, for the trace.
    pub(super) fn cause(self) -> Cause {
        match self {
            FrontEnd::V1 => Cause::V1,
            FrontEnd::V7 => Cause::V7,
            FrontEnd::V2018 => Cause::V2018,
            FrontEnd::V2 => Cause::V2,
        }
    }

    /// Returns whether its user asks it for the dirty pages of guest memory, and not type1 or v2.
    pub(super) fn reports_dirty_pages(self) -> bool {
        matches!(self, FrontEnd::V7 | FrontEnd::V2018)
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
    /// A migration region.
    Region {
        front_end: FrontEnd,
        session: Session,
        /// The buffer that is staged and not consumed.
        staged: Option<Staged>,
        /// The section of a load that arrives.
        incoming: Incoming,
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
            Owner::Region { front_end, .. } => Some(*front_end),
            Owner::V2 { .. } => Some(FrontEnd::V2),
        }
    }

    /// Returns the session.
    pub(super) fn session(&self) -> Option<&Session> {
        match self {
            Owner::None => None,
            Owner::Region { session, .. } | Owner::V2 { session, .. } => Some(session),
        }
    }

    /// Returns the section that arrives at a region.
    pub(super) fn incoming_mut(&mut self) -> Option<&mut Incoming> {
        match self {
            Owner::Region { incoming, .. } => Some(incoming),
            Owner::None | Owner::V2 { .. } => None,
        }
    }

    /// Returns the session.
    pub(super) fn session_mut(&mut self) -> Option<&mut Session> {
        match self {
            Owner::None => None,
            Owner::Region { session, .. } | Owner::V2 { session, .. } => Some(session),
        }
    }
}

/// The front end that asks for a change of state, and what the change may need.
pub(super) enum Request<'a> {
    /// A migration region, with its data section.
    Region(FrontEnd, &'a mut Window),
    /// The v2 ioctls, with the data file of a session that the change begins.
    V2(Option<Arc<dyn Link>>),
}

impl Request<'_> {
    /// Returns the front end.
    pub(super) fn front_end(&self) -> FrontEnd {
        match self {
            Request::Region(front_end, _) => *front_end,
            Request::V2(_) => FrontEnd::V2,
        }
    }

    /// Returns the owner of the session that this begins. `EINVAL` if there is no data file.
    pub(super) fn owner(&mut self, session: Session) -> Result<Owner> {
        Ok(match self {
            Request::Region(front_end, _) => Owner::Region {
                front_end: *front_end,
                session,
                staged: None,
                incoming: Incoming::default(),
            },
            Request::V2(file) => Owner::V2 {
                session,
                file: file.take().ok_or(EINVAL)?,
            },
        })
    }
}

/// The buffer that a region has staged.
#[derive(Clone, Copy)]
pub(super) struct Staged {
    /// The number of bytes.
    pub(super) len: usize,
    /// Whether `data_offset` was read since it was staged, or since it is to be sent again (P23).
    pub(super) offered: bool,
    /// Its number, counted from the creation of the device.
    pub(super) number: u64,
}
