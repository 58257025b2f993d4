// SPDX-License-Identifier: GPL-2.0

//! Checks of any migratable VFIO device against `include/uapi/linux/vfio.h`.
//!
//! Each check is a row of a table, see [`checks`]. The documentation is made from the same table.

mod cdev;
mod check;
mod config;
mod dirty;
mod fault;
mod information;
mod interrupts;
mod race;
mod region_v1;
mod states;
mod states_v1;
mod stream;
mod subject;
mod transfer_v1;

pub use check::{Access, Check, Line, Source};
pub use fault::Fault;
pub use subject::Subject;

/// All checks. Those that only read come first.
pub fn checks() -> impl Iterator<Item = &'static Check> {
    let tables = [
        information::CHECKS,
        region_v1::READS,
        config::READS,
        interrupts::READS,
        cdev::READS,
        states::CHECKS,
        stream::CHECKS,
        region_v1::CHECKS,
        states_v1::CHECKS,
        transfer_v1::CHECKS,
        config::CHECKS,
        interrupts::CHECKS,
        dirty::CHECKS,
        race::CHECKS,
    ];
    tables.into_iter().flatten()
}

/// Returns the table of checks as reStructuredText.
pub fn document() -> String {
    let row = |c: &Check| format!("``{}``\n    {}\n\n    {}\n\n", c.name, c.rule, c.line);
    let text: String = checks().map(row).collect();
    format!("{}\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::{checks, document, Access, Source};

    #[test]
    fn the_document_has_the_table() {
        let text = include_str!("../../../../Documentation/conformance.rst");
        assert!(text.ends_with(&document()), "{}", document());
    }

    /// Each line is in the header that the compiler uses.
    #[test]
    fn the_lines_are_in_the_header() {
        let path = "/usr/include/linux/vfio.h";
        let header = std::fs::read_to_string(path).expect(path);
        let words = |text: &str| {
            let separators = |c: char| c.is_whitespace() || c == '*';
            let words = text.split(separators).filter(|word| !word.is_empty());
            words.collect::<Vec<_>>().join(" ")
        };
        let header = words(&header.replace("*/", "").replace("/*", ""));
        for check in checks().filter(|c| c.line.source == Source::Vfio) {
            let (symbol, text) = (check.line.symbol, words(check.line.text));
            assert!(header.contains(symbol), "{}: {symbol}", check.name);
            assert!(header.contains(&text), "{}: {text}", check.name);
        }
    }

    #[test]
    fn names_are_unique_and_reads_come_first() {
        let names: std::collections::HashSet<_> = checks().map(|c| c.name).collect();
        assert_eq!(names.len(), checks().count());
        assert!(checks().is_sorted_by_key(|c| c.access == Access::Change));
    }
}
