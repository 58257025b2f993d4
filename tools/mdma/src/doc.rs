// SPDX-License-Identifier: GPL-2.0

//! The reference manual, generated from the tables.

use mdma_model::desc::{Field, COMPLETION, DESCRIPTOR, ERRORS, FLAGS, OPERATIONS};
use mdma_model::key::SAVED_KEY;
use mdma_model::list::ENTRY;
use mdma_model::regs::{Access, Register, Reset, REGISTERS};
use mdma_model::state;
use std::fmt::Write;

/// The file in the repository that holds the text.
pub const FILE: &str = "Documentation/mdma-registers.rst";

/// Returns the text of the manual, in reStructuredText.
pub fn registers() -> String {
    let mut text = String::from(
        ".. SPDX-License-Identifier: GPL-2.0\n\
         .. Written by mdma-doc from samples/mdma/model/{regs,desc,list,state}.rs. Do not edit.\n\n",
    );
    let out = &mut text;

    title(out, "Registers of the mdma device", '=');
    paragraph(
        out,
        "The registers are in BAR 0. Each is accessed whole and aligned, with 4 or 8 bytes; an \
         8-byte register also by halves. Numbers are little endian. The device refuses every other \
         access, writes to read-only (RO) registers and writes of invalid values. No access fails: \
         a refused read returns all ones, a refused write is dropped, and the register REFUSED \
         counts both. RW* is writable while CONTROL.ENABLE is 0. Writing 1 to a bit of an RW1C \
         register clears it.",
    );
    table(
        out,
        &["Offset", "Name", "Bits", "Access", "Reset", "Meaning"],
        REGISTERS.iter().map(register_row),
    );

    title(out, "Fields", '-');
    for row in REGISTERS.iter().filter(|row| !row.bits.is_empty()) {
        title(out, row.name, '~');
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

    title(out, "Descriptor", '-');
    fields(out, &DESCRIPTOR);
    title(out, "Operations", '~');
    table(
        out,
        &["op", "Name", "Reads", "Writes", "Meaning"],
        OPERATIONS.iter().map(|row| {
            let used = |used: bool, name: &str| if used { name.into() } else { "".into() };
            vec![
                (row.op as u32).to_string(),
                row.name.into(),
                used(row.source, "src"),
                used(row.destination, "dst"),
                row.meaning.into(),
            ]
        }),
    );
    title(out, "Flags", '~');
    table(
        out,
        &["Bit", "Name", "Meaning"],
        FLAGS.iter().map(|(bit, name, meaning)| {
            vec![
                bit.trailing_zeros().to_string(),
                (*name).into(),
                (*meaning).into(),
            ]
        }),
    );

    title(out, "Entry of a scatter list", '-');
    fields(out, &ENTRY);

    title(out, "Completion record", '-');
    fields(out, &COMPLETION);
    title(out, "Error codes", '~');
    table(
        out,
        &["Code", "Name", "Meaning"],
        ERRORS.iter().map(|row| {
            vec![
                (row.error as u32).to_string(),
                row.name.into(),
                row.meaning.into(),
            ]
        }),
    );

    title(out, "Saved state", '-');
    paragraph(
        out,
        "The device's section of the migration stream: all but the device memory. The device \
         refuses a state that it could not have reached.",
    );
    fields(out, &state::LAYOUT);
    paragraph(out, "Each key of registered memory:");
    fields(out, &SAVED_KEY);
    text
}

/// Returns the cells of a register.
fn register_row(row: &Register) -> Vec<String> {
    let access = match row.access {
        Access::Ro => "RO",
        Access::Rw => "RW",
        Access::RwDisabled => "RW*",
        Access::Rw1c => "RW1C",
    };
    let reset = match row.reset {
        Reset::Value(value) => format!("{value:#x}"),
        Reset::MemorySize => "by type".into(),
        Reset::ThrottleUs => "throttle_us".into(),
    };
    vec![
        format!("{:#05x}", row.offset),
        row.name.into(),
        (row.width * 8).to_string(),
        access.into(),
        reset,
        row.meaning.into(),
    ]
}

/// Prints a heading.
fn title(out: &mut String, text: &str, line: char) {
    let line = line.to_string().repeat(text.len());
    write!(out, "{text}\n{line}\n\n").unwrap();
}

/// Prints a wrapped paragraph.
fn paragraph(out: &mut String, text: &str) {
    let mut column = 0;
    for word in text.split(' ') {
        if column + word.len() > 78 {
            out.push('\n');
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(&escape(word));
        column += word.len();
    }
    out.push_str("\n\n");
}

/// Prints a table of fields.
fn fields(out: &mut String, fields: &[Field]) {
    table(
        out,
        &["Offset", "Size", "Name", "Meaning"],
        fields.iter().map(|field| {
            vec![
                field.offset.to_string(),
                field.size.to_string(),
                field.name.into(),
                field.meaning.into(),
            ]
        }),
    );
}

/// Prints a table with one line per row.
fn table(out: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let head: Vec<String> = head.iter().map(|&cell| cell.into()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head)
        .chain(rows)
        .map(|row| row.iter().map(|cell| escape(cell)).collect())
        .collect();
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let rule: Vec<String> = widths.iter().map(|&width| "=".repeat(width)).collect();
    let rule = rule.join(" ");

    writeln!(out, "{rule}").unwrap();
    for (i, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            // An empty first cell would continue the row above. Others may be empty.
            debug_assert!(column != 0 || !cell.is_empty());
            write!(line, "{cell:<width$} ").unwrap();
        }
        writeln!(out, "{}", line.trim_end()).unwrap();
        if i == 0 {
            writeln!(out, "{rule}").unwrap();
        }
    }
    write!(out, "{rule}\n\n").unwrap();
}

/// Escapes reStructuredText markup.
fn escape(text: &str) -> String {
    text.replace('*', "\\*").replace('|', "\\|")
}
