// SPDX-License-Identifier: GPL-2.0

//! A figure of a page.

use crate::escape::escape;
use crate::theme::Colour;

/// A drawn figure, with its texts.
#[derive(Clone, Debug)]
pub struct Figure {
    pub(crate) title: String,
    /// What a reader who does not see the figure has to know.
    pub(crate) description: String,
    pub(crate) caption: String,
    pub(crate) legend: Vec<(String, Colour)>,
    pub(crate) size: (u32, u32),
    /// SVG elements.
    pub(crate) body: String,
    pub(crate) half: bool,
}

impl Figure {
    /// Sets the text between title and figure, which says how to read it.
    #[must_use]
    pub fn caption(mut self, caption: impl Into<String>) -> Self {
        self.caption = caption.into();
        self
    }

    /// Sets what a reader who does not see the figure has to know.
    #[must_use]
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    /// Returns the figure as HTML. No two figures of a page have the same `number`.
    pub(crate) fn html(&self, number: usize) -> String {
        let class = if self.half { " class=\"half\"" } else { "" };
        let (width, height) = self.size;
        let caption = match self.caption.as_str() {
            "" => String::new(),
            caption => format!("<p>{}</p>", escape(caption)),
        };
        let entry = |(name, colour): &(String, Colour)| {
            format!(
                "<li><svg viewBox=\"0 0 10 10\" aria-hidden=\"true\"><rect width=\"10\" height=\"10\" rx=\"2\" \
                 fill=\"{}\"/></svg>{}</li>",
                colour.hex(),
                escape(name)
            )
        };
        let legend = match self.legend.len() {
            0 => String::new(),
            _ => format!(
                "<ul class=\"legend\">{}</ul>",
                self.legend.iter().map(entry).collect::<String>()
            ),
        };
        format!(
            "<figure{class}>\n<figcaption><h3>{title}</h3>{caption}{legend}</figcaption>\n\
             <svg viewBox=\"0 0 {width} {height}\" role=\"img\" \
             aria-labelledby=\"title-{number} desc-{number}\">\n\
             <title id=\"title-{number}\">{title}</title>\n<desc id=\"desc-{number}\">{desc}</desc>\n\
             {body}\n</svg>\n</figure>\n",
            title = escape(&self.title),
            desc = escape(&self.description),
            body = self.body,
        )
    }
}
