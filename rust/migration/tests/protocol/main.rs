// SPDX-License-Identifier: GPL-2.0

//! Tests of the protocol core. A test is named for the requirement it proves.

mod device;
mod dirty;
mod dirty_query;
mod exhaustive;
mod identity;
mod load;
mod model;
mod mutation;
mod parts;
mod phases;
mod record;
mod region;
mod registers;
mod restart;
mod save;
mod state;
mod state_codec;
mod unchecked;
