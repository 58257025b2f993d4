// SPDX-License-Identifier: GPL-2.0

//! Failures that a program can cause.

use std::fmt;

/// A class of failure, printed as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The kernel log has a report.
    Report,
    /// A call did not return.
    Hang,
    /// A call ended with an unexpected errno.
    Errno,
    /// The device no longer works.
    Unusable,
    /// Something is left after everything was closed.
    Leak,
    /// The process that makes the calls was killed.
    Killed,
}

const WORDS: [(Class, &str); 6] = [
    (Class::Report, "report"),
    (Class::Hang, "hang"),
    (Class::Errno, "errno"),
    (Class::Unusable, "unusable"),
    (Class::Leak, "leak"),
    (Class::Killed, "killed"),
];

impl Class {
    /// Returns the class of this word.
    pub(crate) fn named(word: &str) -> Option<Class> {
        WORDS.iter().find(|(_, w)| *w == word).map(|(c, _)| *c)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = WORDS.iter().find(|(class, _)| class == self);
        f.write_str(word.expect("all of them are in the table").1)
    }
}

/// A failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) class: Class,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(class: Class, text: impl Into<String>) -> Self {
        Failure {
            class,
            text: text.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_back() {
        for (class, word) in WORDS {
            assert_eq!(class.to_string(), word);
            assert_eq!(Class::named(word), Some(class));
        }
        assert_eq!(Class::named("other"), None);
    }
}
