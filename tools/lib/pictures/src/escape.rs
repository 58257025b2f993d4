// SPDX-License-Identifier: GPL-2.0

//! Text for HTML.

/// Returns text that is safe in an element and in a quoted attribute.
///
/// Control characters and those that change the direction of text become U+FFFD.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(shown(c)),
        }
    }
    safe
}

/// Returns text for a canvas, which escapes it: at most `max` characters, of those that can be shown.
pub(crate) fn label(text: &str, max: usize) -> String {
    let mut shown: String = text.chars().take(max).map(self::shown).collect();
    if text.chars().nth(max).is_some() {
        shown.pop();
        shown.push('…');
    }
    shown
}

fn shown(c: char) -> char {
    match c {
        '\n' | '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_becomes_text() {
        assert_eq!(
            escape("<script src='x'>\"&\u{0}\u{202e}"),
            "&lt;script src=&#39;x&#39;&gt;&quot;&amp;\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn long_labels_end_with_an_ellipsis() {
        assert_eq!(label("abc", 3), "abc");
        assert_eq!(label("abcd", 3), "ab…");
        assert_eq!(label("a\nb\u{7}", 9), "a b\u{fffd}");
    }
}
