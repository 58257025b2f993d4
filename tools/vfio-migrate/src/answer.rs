// SPDX-License-Identifier: GPL-2.0

//! The output of a command.

use serde::Serialize;
use serde_json::Value;

/// Text, and the fields of the JSON object.
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) json: Value,
    /// The exit code.
    pub(crate) code: u8,
}

impl Answer {
    /// Makes the answer of a command that succeeded.
    pub(crate) fn new(text: String, json: impl Serialize) -> Self {
        Answer {
            text,
            json: serde_json::to_value(json).expect("reports have string keys only"),
            code: 0,
        }
    }
}
