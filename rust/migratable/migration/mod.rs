// SPDX-License-Identifier: GPL-2.0

//! Migration: how a device's state moves.
//!
//! | file                  | contents                                                       |
//! |-----------------------|----------------------------------------------------------------|
//! | `data_section_config` | size of the v1 data section, which a driver chooses            |
//! | `identity`            | the identity of the device in a stream                         |
//! | `state_machine`       | the migration state of a device                                |
//! | `owner`               | the session that is open, and the front end that opened it     |
//! | `times`               | the time a device spends in each state                         |
//! | `change`              | the effects of a change of state                               |
//! | `transfer`            | moves data through a session                                   |
//! | `device_access`       | the device as crate `migration` accesses it                    |
//! | `data_section`        | the data section of the v1 region: memory shared with the user |
//! | `v1`                  | the v1 region: registers and the data section                  |
//! | `v2`                  | the v2 changes of state                                        |
//! | `migration_file`      | the files through which v2 moves the state                     |
//! | `link`                | a migration file as the state machine knows it                 |
//! | `debugfs`             | counters and times                                             |
//!
//! Crate `migration` decides what is sent, what is accepted, and which changes of state there are. It
//! has no `unsafe` code and is tested by itself.

mod change;
mod data_section;
mod data_section_config;
pub(crate) mod debugfs;
mod device_access;
pub(crate) mod identity;
mod link;
mod migration_file;
mod owner;
mod state_machine;
mod times;
mod transfer;
mod v1;
mod v2;

pub use self::data_section_config::DataSectionConfig;
pub(crate) use self::{
    data_section::DataSection,
    state_machine::StateMachine, //
};
