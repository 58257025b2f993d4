// SPDX-License-Identifier: GPL-2.0

//! Migration: how a device's state moves.
//!
//! | file                  | contents                                                       |
//! |-----------------------|----------------------------------------------------------------|
//! | `data_section_config` | the region, as far as a driver chooses it                     |
//! | `identity`            | the identity of the device in a stream                         |
//! | `state_machine`       | the migration state of a device                                |
//! | `owner`               | the session that is open, and the front end that opened it     |
//! | `times`               | the time a device spends in each state                         |
//! | `change`              | the effects of a change of state                               |
//! | `transfer`            | moves data through a session                                   |
//! | `device_access`       | the device as crate `migration` accesses it                    |
//! | `stream_buffer`       | the memory that the bytes of a stream go to or come from       |
//! | `data_section`        | the data section of the region: memory shared with the user    |
//! | `section_access`      | access to the region, as all generations have it               |
//! | `v1`                  | the v1 region: registers and the data section                  |
//! | `v7`                  | the region of July 2019                                        |
//! | `v2018`               | the region of November 2018                                    |
//! | `dirty_report`        | dirty pages of guest memory, for these two                     |
//! | `choice`              | the choice of the generation                                   |
//! | `v2`                  | the v2 changes of state                                        |
//! | `migration_file`      | the files through which v2 moves the state                     |
//! | `link`                | a migration file as the state machine knows it                 |
//! | `debugfs`             | counters and times                                             |
//!
//! Crate `migration` decides what is sent, what is accepted, and which changes of state there are. It
//! has no `unsafe` code and is tested by itself.

mod change;
mod choice;
mod data_section;
mod data_section_config;
pub(crate) mod debugfs;
mod device_access;
mod dirty_report;
pub(crate) mod identity;
mod link;
mod migration_file;
mod owner;
mod section_access;
mod state_machine;
mod stream_buffer;
mod times;
mod transfer;
mod v1;
mod v2;
mod v2018;
mod v7;

pub use self::data_section_config::DataSectionConfig;
pub(crate) use self::{
    data_section::DataSection,
    state_machine::StateMachine, //
};
pub use migration::generation::Generation;
