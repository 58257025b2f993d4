// SPDX-License-Identifier: GPL-2.0

//! Lines of text on standard output.

/// Prints lines, unless the output is JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    pub(crate) quiet: bool,
}

impl Out {
    /// Prints one line: a subject, and text about it.
    pub(crate) fn line(&self, name: &str, text: impl AsRef<str>) {
        if !self.quiet {
            println!("{name:<15} {}", text.as_ref());
        }
    }

    pub(crate) fn blank(&self) {
        if !self.quiet {
            println!();
        }
    }
}

/// Formats a number with its digits in groups of three.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
