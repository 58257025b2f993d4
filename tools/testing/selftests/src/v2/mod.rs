// SPDX-License-Identifier: GPL-2.0

//! Migration through v2 data files.

pub(crate) mod data_file;
pub(crate) mod loading;
pub(crate) mod precopy;
pub(crate) mod saving;
pub(crate) mod state_sequences;
pub(crate) mod states;
pub(crate) mod with_v1;
