// SPDX-License-Identifier: GPL-2.0

//! Jobs, and the worker that runs them.

pub(crate) mod faults;
pub(crate) mod jobs;
pub(crate) mod limits;
pub(crate) mod lists;
pub(crate) mod racing;
pub(crate) mod stopping;
pub(crate) mod suspend;
pub(crate) mod user;
pub(crate) mod waits;
