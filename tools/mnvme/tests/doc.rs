// SPDX-License-Identifier: GPL-2.0

//! The data sheet in the repository matches the tables.

use std::path::Path;

#[test]
fn the_committed_data_sheet_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let committed = std::fs::read_to_string(root.join(mnvme::doc::FILE)).unwrap_or_default();
    assert!(
        committed == mnvme::doc::data_sheet(),
        "{0} is out of date: cargo run -p mnvme --bin mnvme-doc {0}",
        mnvme::doc::FILE
    );
}
