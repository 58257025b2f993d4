// SPDX-License-Identifier: GPL-2.0

//! Tests of the model: a driver that follows the specification, and one that does not.

mod admin;
mod engine;
mod event;
mod io;
mod machine;
mod prp;
mod queue;
mod reach;
mod registers;
mod state;
