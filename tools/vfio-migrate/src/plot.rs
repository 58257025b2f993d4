// SPDX-License-Identifier: GPL-2.0

//! The command `plot`: draws figures from a file.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use serde::Deserialize;
use serde_json::json;
use vfio_client::Error;
use vfio_migrate::figures::{Figures, VERSION};
use vfio_migrate::file::NewFile;
use vfio_migrate::{picture, Failure};

use crate::answer::Answer;

/// The largest file.
const SIZE_MAX: u64 = 64 << 20;

/// Draws the figures of a file as a page.
pub(crate) fn plot(figures: &Path, page: &Path, force: bool) -> Result<Answer, Failure> {
    let out = NewFile::create(page, force)?;
    let bytes = write(&read(figures)?, page, out)?;
    Ok(Answer::new(
        format!("drawn in {}", page.display()),
        json!({ "page": page, "bytes": bytes }),
    ))
}

/// Draws figures in a file that was created; returns its size.
pub(crate) fn write(figures: &Figures, path: &Path, mut page: NewFile) -> Result<usize, Failure> {
    let html = picture(figures)?;
    page.write_all(html.as_bytes())
        .map_err(|e| Error::new(format!("write {}", path.display()), e))?;
    page.commit()?;
    Ok(html.len())
}

/// Reads a file.
fn read(path: &Path) -> Result<Figures, Failure> {
    let field = || format!("read {}", path.display());
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SIZE_MAX + 1).read_to_end(&mut text))
        .map_err(|e| Error::new(field(), e))?;
    if text.len() as u64 > SIZE_MAX {
        return Err(Error::other(field(), format!("larger than {SIZE_MAX} bytes")).into());
    }
    Ok(parse(&text).map_err(|why| Error::other(field(), why))?)
}

/// Parses and checks a file's contents.
fn parse(text: &[u8]) -> Result<Figures, String> {
    /// What every version has.
    #[derive(Deserialize)]
    struct Version {
        figures: u64,
    }
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err("the file is empty".into());
    }
    let Version { figures } = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    if figures != u64::from(VERSION) {
        return Err(format!("figures: version {figures} is not {VERSION}"));
    }
    let figures: Figures = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    figures.check()?;
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vfio_migrate::figures::{Copied, Interval, Memory};

    #[test]
    fn a_file_that_is_wrong_is_refused_with_the_place() {
        for (text, why) in [
            ("", "the file is empty"),
            ("  \n", "the file is empty"),
            ("[]", "invalid length 0"),
            ("7", "invalid type"),
            ("{\"figures\":1,\"title\":\"t\",\"end\":1", "EOF"),
            ("{\"title\":\"t\"}", "missing field `figures`"),
            ("{\"figures\":2}", "figures: version 2 is not 1"),
            ("{\"figures\":1,\"title\":\"t\"}", "missing field `end`"),
            (r#"{"figures":1,"title":"t","end":-1}"#, "end: -1 is before"),
            (r#"{"figures":1,"title":"t","end":1e300}"#, "end: "),
            (
                r#"{"figures":1,"title":"t","end":1e999}"#,
                "number out of range",
            ),
            (
                r#"{"figures":1,"title":"t","end":1,"stopped":{"begin":2,"end":1}}"#,
                "stopped: end 1 is before begin 2",
            ),
            (
                r#"{"figures":1,"title":"t","end":1,"memories":[{"name":"m","samples":[{"at":0,"bytes":-1,"left":0}]}]}"#,
                "invalid value: integer `-1`",
            ),
            (
                r#"{"figures":1,"title":"t","end":1,"jobs":{"before":0,"during":0,"after":0,
                    "samples":[{"at":1,"jobs":1},{"at":0.5,"jobs":1}]}}"#,
                "jobs.samples[1].at: 0.5 is before 1",
            ),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let figures = Figures {
            figures: VERSION,
            title: "a \"title\"".into(),
            end: 1.5,
            stopped: Some(Interval {
                begin: 1.0,
                end: 1.25,
            }),
            memories: vec![Memory {
                samples: vec![Copied {
                    at: 0.5,
                    bytes: 1,
                    passes: Some(2),
                    ..Copied::default()
                }],
                ..Memory::default()
            }],
            ..Figures::default()
        };
        let text = serde_json::to_vec(&figures).unwrap();
        assert_eq!(parse(&text).unwrap(), figures);
        // A file that was cut off anywhere is refused, and never a panic.
        for len in 0..text.len() {
            parse(&text[..len]).unwrap_err();
        }
    }
}
