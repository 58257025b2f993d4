// SPDX-License-Identifier: GPL-2.0

//! The list of patterns that tell trouble from other lines of the kernel log.

/// The list, which explains its own format.
const PATTERNS: &str = include_str!("../../../../scripts/lib/trouble.txt");

/// Returns whether a line of the kernel log reports a fault of the kernel.
pub fn is_trouble(line: &str) -> bool {
    let mut trouble = false;
    for pattern in PATTERNS.lines().map(str::trim) {
        match pattern.strip_prefix('!') {
            _ if pattern.is_empty() || pattern.starts_with('#') => {}
            Some(harmless) if matches(line, harmless) => return false,
            Some(_) => {}
            None => trouble = trouble || matches(line, pattern),
        }
    }
    trouble
}

/// Returns whether `pattern` occurs in `line` at the start of a word; `*` stands for any text.
fn matches(line: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let found = line
        .match_indices(first)
        .find(|(at, _)| !line[..*at].ends_with(is_word));
    let Some((at, _)) = found else {
        return false;
    };
    // The first place leaves the most text for the other parts.
    let mut rest = &line[at + first.len()..];
    parts.all(|part| match rest.split_once(part) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        assert!(matches("[    1.0] BUG: x", "BUG:"));
        assert!(!matches("DEBUG: x", "BUG:"));
        assert!(matches("DEBUG: BUG: x", "BUG:"));
        assert!(matches(
            "INFO: task a:7 blocked for",
            "INFO: task * blocked"
        ));
        assert!(!matches("blocked INFO: task a:7", "INFO: task * blocked"));
    }

    #[test]
    fn reports() {
        for line in [
            "WARNING: CPU: 0 PID: 1 at drivers/vfio/vfio_main.c:1 f+0x1/0x2",
            "BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "WARNING: possible circular locking dependency detected",
            "rust_kernel: panicked at rust/vfio/irq.rs:1:2:",
            "Out of memory: Killed process 7",
            "kmemleak: 1 new suspicious memory leaks",
        ] {
            assert!(is_trouble(line), "{line}");
        }
        for line in [
            "mdma 83b8f4f2: TAIL 7 is outside the ring of 4",
            "debug: nothing",
            "BUG-free; Linux version 7",
            "Kernel command line: oops=panic",
            "Memory cgroup out of memory: Killed process 7",
            "kmemleak: Kernel memory leak detector initialized (mem pool available: 15689)",
            "kmemleak: Kernel memory leak detector disabled",
            "",
        ] {
            assert!(!is_trouble(line), "{line}");
        }
    }
}
