// SPDX-License-Identifier: GPL-2.0

//! Migration: how a device's state moves.
//!
//! | file            | contents                                                       |
//! |-----------------|----------------------------------------------------------------|
//! | `section`       | the size of the v1 data section, which a driver chooses        |
//! | `identity`      | what a stream says of the device                               |
//! | `state_machine` | the state of a device                                          |
//! | `owner`         | the session that is open, and the front end that opened it     |
//! | `times`         | the time a device spends in each state                         |
//! | `change`        | what a change of state does                                    |
//! | `transfer`      | what moves through a session                                   |
//! | `endpoint`      | the device as crate `migration` reads and writes it            |
//! | `staging`       | the data section of the v1 region: memory shared with the user |
//! | `v1`            | the v1 region: registers and the data section                  |
//! | `v2`            | the v2 changes of state                                        |
//! | `data_file`     | the files through which v2 moves the state                     |
//! | `link`          | a data file as the state machine knows it                      |
//! | `debugfs`       | counters and times                                             |
//!
//! Crate `migration` decides what is sent, what is accepted, and which changes of state there are. It
//! has no `unsafe` code and is tested by itself.

mod change;
mod data_file;
pub(crate) mod debugfs;
mod endpoint;
pub(crate) mod identity;
mod link;
mod owner;
mod section;
mod staging;
mod state_machine;
mod times;
mod transfer;
mod v1;
mod v2;

pub use self::section::DataSection;
pub(crate) use self::{
    staging::Staging,
    state_machine::StateMachine, //
};
