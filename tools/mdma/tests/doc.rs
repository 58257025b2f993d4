// SPDX-License-Identifier: GPL-2.0

//! The manual in the repository matches the tables.

use std::path::Path;

#[test]
fn the_committed_manual_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let committed = std::fs::read_to_string(root.join(mdma::doc::FILE)).unwrap_or_default();
    assert!(
        committed == mdma::doc::registers(),
        "{0} is out of date: cargo run -p mdma --bin mdma-doc {0}",
        mdma::doc::FILE
    );
}
