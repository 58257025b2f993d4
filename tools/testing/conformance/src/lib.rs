// SPDX-License-Identifier: GPL-2.0

//! Checks of any migratable VFIO device against `include/uapi/linux/vfio.h`.
//!
//! Each check is a row of a table, see [`checks`]. The documentation is made from the same table.

mod check;
mod fault;
mod information;
mod states;
mod stream;
mod subject;

pub use check::{Access, Check};
pub use fault::Fault;
pub use subject::Subject;

/// All checks. Those that only read come first.
pub fn checks() -> impl Iterator<Item = &'static Check> {
    let idle = states::CHECKS.iter().chain(stream::CHECKS);
    information::CHECKS.iter().chain(idle)
}

/// Returns the table of checks as reStructuredText.
pub fn document() -> String {
    let row = |c: &Check| format!("``{}``, ``{}``\n    {}\n", c.name, c.symbol, c.rule);
    checks().map(row).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_document_has_the_table() {
        let text = include_str!("../../../../Documentation/conformance.rst");
        assert!(text.ends_with(&super::document()), "{}", super::document());
    }
}
