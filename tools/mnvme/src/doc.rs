// SPDX-License-Identifier: GPL-2.0

//! The data sheet, generated from the tables.

use mnvme_model::command::{Row, ADMIN, NVM};
use mnvme_model::controller::State;
use mnvme_model::feature::FEATURES;
use mnvme_model::identify::{Field, CONTROLLER, NAMESPACE_FIELDS};
use mnvme_model::log::PAGES;
use mnvme_model::regs::{Access, Register, REGISTERS};
use mnvme_model::state::{visit, Visitor, SIZE};
use mnvme_model::status::STATUSES;
use std::convert::Infallible;
use std::fmt::Write;

/// The file in the repository that holds the text.
pub const FILE: &str = "Documentation/mnvme.rst";

/// Returns the text of the data sheet, in reStructuredText.
pub fn data_sheet() -> String {
    let (license, text) = include_str!("mnvme.rst")
        .split_once('\n')
        .expect("the licence is the first line");
    let mut text = format!(
        "{license}\n\
         .. Written by mnvme-doc from samples/mnvme/model and tools/mnvme/src/mnvme.rst. Do not edit.\n\
         {text}\n"
    );
    let out = &mut text;

    title(out, "Registers", '=');
    table(
        out,
        &["Offset", "Name", "Bits", "Access", "Reset", "Meaning"],
        REGISTERS.iter().map(register_row),
    );
    for row in REGISTERS.iter().filter(|row| !row.bits.is_empty()) {
        title(out, row.name, '-');
        table(
            out,
            &["Bits", "Name", "Meaning"],
            row.bits.iter().map(|bits| {
                let last = bits.shift + bits.width - 1;
                let range = match bits.width {
                    1 => last.to_string(),
                    _ => format!("{last}:{}", bits.shift),
                };
                vec![range, bits.name.into(), bits.meaning.into()]
            }),
        );
    }

    title(out, "Admin commands", '=');
    commands(out, &ADMIN);
    title(out, "I/O commands", '=');
    commands(out, &NVM);
    title(out, "Features", '=');
    table(
        out,
        &["Id", "Name", "Bits", "Default", "Meaning"],
        FEATURES.iter().map(|row| {
            vec![
                format!("{:02x}h", row.id),
                row.name.into(),
                format!("{:x}h", row.mask),
                row.default.to_string(),
                row.meaning.into(),
            ]
        }),
    );
    title(out, "Log pages", '=');
    table(
        out,
        &["Id", "Name", "Bytes", "Contents"],
        PAGES.iter().map(|row| {
            vec![
                format!("{:02x}h", row.id),
                row.name.into(),
                row.size.to_string(),
                row.meaning.into(),
            ]
        }),
    );
    title(out, "Identify Controller", '=');
    fields(out, &CONTROLLER);
    title(out, "Identify Namespace", '=');
    fields(out, &NAMESPACE_FIELDS);
    title(out, "Status codes", '=');
    table(
        out,
        &["SCT", "SC", "DNR", "Name", "When"],
        STATUSES.iter().map(|row| {
            vec![
                row.sct.to_string(),
                format!("{:02x}h", row.sc),
                u8::from(row.dnr).to_string(),
                row.name.into(),
                row.meaning.into(),
            ]
        }),
    );
    title(out, "Saved state", '=');
    saved_state(out);
    // One newline at the end.
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// A field of the saved state, and how often it is there.
struct Saved {
    offset: usize,
    size: usize,
    name: &'static str,
    count: usize,
}

/// Lists the fields of the saved state.
struct Lister {
    fields: Vec<Saved>,
    end: usize,
}

impl Visitor for Lister {
    type Error = Infallible;

    fn field(
        &mut self,
        name: &'static str,
        size: usize,
        _value: &mut u64,
    ) -> Result<(), Infallible> {
        match self.fields.iter_mut().find(|field| field.name == name) {
            Some(field) => field.count += 1,
            None => self.fields.push(Saved {
                offset: self.end,
                size,
                name,
                count: 1,
            }),
        }
        self.end += size;
        Ok(())
    }
}

/// Prints the layout of the saved state.
fn saved_state(out: &mut String) {
    let mut lister = Lister {
        fields: Vec::new(),
        end: 0,
    };
    let Ok(()) = visit(&mut State::default(), &mut lister);
    assert_eq!(lister.end, SIZE);
    writeln!(
        out,
        "The device's section of the migration stream has {SIZE} bytes. Numbers are little endian. Fields\n\
         that are there several times belong to queues, features, requests and entries of the error\n\
         log; all fields of one of them come before those of the next. The device refuses a state that\n\
         it could not have reached.\n",
    )
    .unwrap();
    table(
        out,
        &["Offset of the first", "Size", "Times", "Name"],
        lister.fields.iter().map(|field| {
            vec![
                field.offset.to_string(),
                field.size.to_string(),
                field.count.to_string(),
                field.name.into(),
            ]
        }),
    );
}

/// Returns the cells of a register.
fn register_row(row: &Register) -> Vec<String> {
    let access = match row.access {
        Access::Ro => "RO",
        Access::Rw => "RW",
        Access::RwDisabled => "RW*",
        Access::W1s => "RW1S",
        Access::W1c => "RW1C",
    };
    vec![
        format!("{:#04x}", row.offset),
        row.name.into(),
        (row.width * 8).to_string(),
        access.into(),
        format!("{:#x}", row.reset),
        row.meaning.into(),
    ]
}

/// Prints a table of commands.
fn commands<T>(out: &mut String, rows: &[Row<T>]) {
    table(
        out,
        &["Opcode", "Name", "Meaning"],
        rows.iter().map(|row| {
            vec![
                format!("{:02x}h", row.opcode),
                row.name.into(),
                row.meaning.into(),
            ]
        }),
    );
}

/// Prints a table of fields of an Identify data structure.
fn fields(out: &mut String, rows: &[Field]) {
    table(
        out,
        &["Offset", "Name", "Value", "Meaning"],
        rows.iter().map(|row| {
            let printable = row.value.len() > 4 && row.value.is_ascii();
            let value = if printable {
                String::from_utf8_lossy(row.value).trim_end().into()
            } else {
                let digits: Vec<String> = row.value.iter().map(|b| format!("{b:02x}")).collect();
                digits.join(" ")
            };
            vec![
                row.offset.to_string(),
                row.name.into(),
                value,
                row.meaning.into(),
            ]
        }),
    );
}

/// Prints a heading.
fn title(out: &mut String, text: &str, line: char) {
    let line = line.to_string().repeat(text.len());
    write!(out, "{text}\n{line}\n\n").unwrap();
}

/// Prints a table with one line per row.
fn table(out: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let head: Vec<String> = head.iter().map(|&cell| cell.into()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let rule: Vec<String> = widths.iter().map(|&width| "=".repeat(width)).collect();
    let rule = rule.join(" ");

    writeln!(out, "{rule}").unwrap();
    for (i, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            write!(line, "{cell:<width$} ").unwrap();
        }
        writeln!(out, "{}", line.trim_end()).unwrap();
        if i == 0 {
            writeln!(out, "{rule}").unwrap();
        }
    }
    write!(out, "{rule}\n\n").unwrap();
}
