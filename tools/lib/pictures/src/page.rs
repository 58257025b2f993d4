// SPDX-License-Identifier: GPL-2.0

//! The page: HTML with everything in it.

use crate::escape::escape;
use crate::figure::Figure;
use crate::theme;

/// A table.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The names of the columns; a name that begins with `>` is of numbers.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
}

/// A page.
#[derive(Clone, Debug)]
pub struct Page {
    title: String,
    head: String,
    body: String,
    /// A grid of figures is open.
    in_figures: bool,
    figures: usize,
}

impl Page {
    /// Starts a page.
    pub fn new(title: &str, subtitle: &str) -> Self {
        Page {
            title: title.into(),
            head: format!(
                "<h1>{}</h1>\n<p class=\"subtitle\">{}</p>\n",
                escape(title),
                escape(subtitle)
            ),
            body: String::new(),
            in_figures: false,
            figures: 0,
        }
    }

    fn add(&mut self, html: &str) {
        if self.in_figures {
            self.body.push_str("</div>\n");
            self.in_figures = false;
        }
        self.body.push_str(html);
    }

    /// Adds the text that says it all.
    pub fn lead(&mut self, text: &str) {
        self.add(&format!("<p class=\"lead\">{}</p>\n", escape(text)));
    }

    /// Adds a paragraph.
    pub fn text(&mut self, text: &str) {
        self.add(&format!("<p>{}</p>\n", escape(text)));
    }

    /// Adds a title.
    pub fn section(&mut self, title: &str) {
        self.add(&format!("<h2>{}</h2>\n", escape(title)));
    }

    /// Adds figures in large type: name and value.
    pub fn tiles<'t>(&mut self, tiles: impl IntoIterator<Item = (&'t str, String)>) {
        let tile = |(name, value): (&str, String)| {
            format!(
                "<div><dt>{}</dt><dd>{}</dd></div>",
                escape(name),
                escape(&value)
            )
        };
        let tiles: String = tiles.into_iter().map(tile).collect();
        if !tiles.is_empty() {
            self.add(&format!("<dl class=\"tiles\">{tiles}</dl>\n"));
        }
    }

    /// Adds a figure.
    pub fn figure(&mut self, figure: &Figure) {
        if !self.in_figures {
            self.body.push_str("<div class=\"figures\">\n");
            self.in_figures = true;
        }
        self.figures += 1;
        self.body.push_str(&figure.html(self.figures));
    }

    /// Adds a table; with a `summary` it is closed at first.
    pub fn table(&mut self, summary: Option<&str>, table: &Table) {
        let cell = |tag: &str, column: usize, text: &str| {
            let class = match table.columns.get(column) {
                Some(name) if name.starts_with('>') => " class=\"number\"",
                _ => "",
            };
            format!("<{tag}{class}>{}</{tag}>", escape(text))
        };
        let row = |tag: &str, cells: &[String], strip: bool| -> String {
            let cells = cells.iter().enumerate().map(|(i, text)| {
                let text = if strip {
                    text.trim_start_matches('>')
                } else {
                    text
                };
                cell(tag, i, text)
            });
            format!("<tr>{}</tr>\n", cells.collect::<String>())
        };
        let head = row("th", &table.columns, true);
        let rows: String = table
            .rows
            .iter()
            .map(|cells| row("td", cells, false))
            .collect();
        let html = format!("<table>\n<thead>{head}</thead>\n<tbody>{rows}</tbody>\n</table>\n");
        match summary {
            Some(summary) => self.add(&format!(
                "<details><summary>{}</summary>\n{html}</details>\n",
                escape(summary)
            )),
            None => self.add(&html),
        }
    }

    /// Returns the page. `maker` is the program that made it.
    pub fn html(mut self, maker: &str) -> String {
        self.add("");
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
             base-uri 'none'; form-action 'none'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n\
             {}{}</main>\n<footer>Drawn by {}. The page holds everything that it shows and loads nothing.</footer>\n\
             </body>\n</html>\n",
            escape(&self.title),
            theme::sheet(),
            self.head,
            self.body,
            escape(maker),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_nothing_and_texts_are_escaped() {
        let mut page = Page::new("<b>title</b>", "sub\"title");
        page.lead("<img src=//example>");
        page.tiles([("a<b", "1".to_string())]);
        page.table(
            Some("<i>"),
            &Table {
                columns: vec!["name".into(), ">count".into()],
                rows: vec![vec!["<u>".into(), ">5".into()]],
            },
        );
        let html = page.html("a test");
        for markup in ["<b>", "<img", "<u>", "<i>", "http:", "https:", "<script"] {
            assert!(!html.contains(markup), "{markup}");
        }
        assert!(html.contains("<td class=\"number\">&gt;5</td>"));
        assert!(html.contains("<th class=\"number\">count</th>"));
        assert!(html.contains("default-src 'none'"));
    }
}
