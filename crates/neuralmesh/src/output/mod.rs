//! What people and programs get to see. Results go to stdout; notes, progress and errors to stderr.

pub mod human;
pub mod json;
pub mod progress;
pub mod report;
pub mod screen;
pub mod table;

use crate::client::{Fetched, Listed};
use clap::ValueEnum;
use progress::Progress;
use serde_json::value::RawValue;
use std::io::{self, IsTerminal, Write};
use table::Column;

/// How results are printed: a table for people, one with more columns, the API's `data` as it is, or names, one a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    // The variants are told of in the option's help: documented here, they would make every command's help twice as long.
    #[default]
    Table,
    Wide,
    Json,
    Name,
}

/// Where results go, and how.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub format: Format,
}

impl Output {
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    pub fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// The width to fit tables into, where stdout is a terminal.
    fn width(self) -> Option<u16> {
        if io::stdout().is_terminal() { terminal_width() } else { None }
    }

    /// One line on stdout.
    pub fn line(self, text: impl AsRef<str>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_ref().as_bytes())?;
        out.write_all(b"\n")
    }

    pub fn lines<S: AsRef<str>>(self, lines: impl IntoIterator<Item = S>) -> io::Result<()> {
        lines.into_iter().try_for_each(|line| self.line(line))
    }

    /// A JSON value, indented.
    pub fn json(self, raw: &RawValue) -> io::Result<()> {
        self.line(json::pretty(raw.get()))
    }

    /// A JSON value on one line, for streams.
    pub fn json_line(self, raw: &str) -> io::Result<()> {
        self.line(json::compact(raw))
    }

    /// A list, in the wanted format. `name` is what `-o name` prints.
    pub fn list<T>(self, list: &Listed<T>, columns: &[Column<'_, T>], name: impl Fn(&T) -> String) -> io::Result<()> {
        match self.format {
            Format::Json => self.line(json::array(&list.raw)),
            Format::Name => self.lines(list.items.iter().map(name)),
            Format::Table | Format::Wide => {
                self.line(table::render(&list.items, columns, self.format == Format::Wide, self.width()))?;
                if list.more {
                    note("there is more: raise --limit");
                }
                Ok(())
            }
        }
    }

    /// One thing as a list of its properties, in the wanted format.
    pub fn card<T>(self, thing: &Fetched<T>, name: &str, rows: &[(&str, String)]) -> io::Result<()> {
        match self.format {
            Format::Json => self.json(&thing.raw),
            Format::Name => self.line(name),
            Format::Table | Format::Wide => self.line(table::card(rows)),
        }
    }

    /// The result of a change: JSON where that is wanted, else `text`.
    pub fn result<T>(self, thing: &Fetched<T>, text: &str) -> io::Result<()> {
        if self.is_json() { self.json(&thing.raw) } else { self.line(text) }
    }

    /// Shows an operation's progress on stderr.
    pub fn progress(self) -> Progress {
        Progress::new(io::stderr().is_terminal())
    }
}

/// A remark for people, on stderr.
pub fn note(text: impl AsRef<str>) {
    // A closed stderr is nothing to fail for.
    let _closed = writeln!(io::stderr().lock(), "{}", text.as_ref());
}

/// A warning, on stderr.
pub fn warning(text: impl AsRef<str>) {
    note(format!("warning: {}", text.as_ref()));
}

/// The terminal's width, where it tells it and cells can be wrapped into it and still be read.
pub fn terminal_width() -> Option<u16> {
    const LEAST: u16 = 60;
    crossterm::terminal::size()
        .ok()
        .map(|(columns, _)| columns)
        .filter(|columns| *columns >= LEAST)
}
