//! Rows on a stream: a table for people, JSON lines and CSV for programs. Memory stays flat however many rows there are.

use std::fmt::Write as _;
use std::io::{self, Write};

use crate::row::Row;

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns with a heading; the main columns only.
    Table,
    /// One JSON object per line.
    Ndjson,
    /// Comma-separated with a heading, every column; quoted as in RFC 4180 where needed, lines end in LF.
    Csv,
}

/// Rows of a table that are aligned together.
const PAGE_ROWS: usize = 100;

/// Writes rows of one type.
#[derive(Debug)]
pub struct Output<W: Write> {
    out: W,
    format: Format,
    begun: bool,
    page: Vec<Vec<String>>,
    widths: Vec<usize>,
    text: String,
}

impl<W: Write> Output<W> {
    /// Writes to `out`, which should be buffered.
    pub fn new(out: W, format: Format) -> Self {
        Self { out, format, begun: false, page: Vec::new(), widths: Vec::new(), text: String::new() }
    }

    /// Writes one row. Tables are written a page at a time.
    pub fn write<R: Row>(&mut self, row: &R) -> io::Result<()> {
        match self.format {
            Format::Ndjson => {
                serde_json::to_writer(&mut self.out, row)?;
                self.out.write_all(b"\n")
            }
            Format::Csv => {
                self.heading::<R>()?;
                self.text.clear();
                push_csv_row(&mut self.text, row);
                self.out.write_all(self.text.as_bytes())
            }
            Format::Table => {
                let mut cells = Vec::with_capacity(R::TABLE.len());
                for column in R::TABLE {
                    let mut cell = String::new();
                    row.show(*column, true, &mut cell).map_err(io::Error::other)?;
                    cells.push(cell);
                }
                self.page.push(cells);
                if self.page.len() == PAGE_ROWS { self.write_page::<R>() } else { Ok(()) }
            }
        }
    }

    /// Writes one line of JSON that is no row of a table; only between rows of [`Format::Ndjson`].
    pub fn json(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value)?;
        self.out.write_all(b"\n")
    }

    /// Writes what is still held back, and the heading if there was no row.
    pub fn finish<R: Row>(mut self) -> io::Result<W> {
        match self.format {
            Format::Ndjson => {}
            Format::Csv => self.heading::<R>()?,
            Format::Table => self.write_page::<R>()?,
        }
        self.out.flush()?;
        Ok(self.out)
    }

    /// Writes what is held back so far, for output that somebody watches.
    pub fn flush<R: Row>(&mut self) -> io::Result<()> {
        if !self.page.is_empty() {
            self.write_page::<R>()?;
        }
        self.out.flush()
    }

    fn heading<R: Row>(&mut self) -> io::Result<()> {
        if self.begun {
            return Ok(());
        }
        self.begun = true;
        writeln!(self.out, "{}", R::COLUMNS.join(","))
    }

    /// Columns never become narrower from page to page.
    fn write_page<R: Row>(&mut self) -> io::Result<()> {
        let page = std::mem::take(&mut self.page);
        let heading: Vec<String> = R::TABLE.iter().map(|column| R::COLUMNS[*column].to_owned()).collect();
        self.widths.resize(heading.len(), 0);
        for cells in page.iter().chain([&heading]) {
            for (width, cell) in self.widths.iter_mut().zip(cells) {
                *width = (*width).max(columns_of(cell));
            }
        }
        if !self.begun {
            self.begun = true;
            self.write_line(&heading)?;
        }
        page.iter().try_for_each(|cells| self.write_line(cells))
    }

    fn write_line(&mut self, cells: &[String]) -> io::Result<()> {
        self.text.clear();
        for (cell, width) in cells.iter().zip(&self.widths) {
            let padding = width - columns_of(cell);
            // Numbers to the right, words to the left.
            if cell.starts_with(|first: char| first.is_ascii_digit() || first == '-') {
                write!(self.text, "{:padding$}{cell}  ", "").map_err(io::Error::other)?;
            } else {
                write!(self.text, "{cell}{:padding$}  ", "").map_err(io::Error::other)?;
            }
        }
        writeln!(self.out, "{}", self.text.trim_end())
    }
}

/// Appends the line that names every column of such rows in CSV.
pub fn push_csv_heading<R: Row>(out: &mut String) {
    out.push_str(&R::COLUMNS.join(","));
    out.push('\n');
}

/// Appends a row as a line of CSV.
pub fn push_csv_row<R: Row>(out: &mut String, row: &R) {
    for column in 0..R::COLUMNS.len() {
        if column > 0 {
            out.push(',');
        }
        let start = out.len();
        row.show(column, false, out).expect("strings take all text");
        quote_from(out, start);
    }
    out.push('\n');
}

/// How many columns of a terminal a text takes: East Asian characters are wide.
fn columns_of(text: &str) -> usize {
    let wide = |char: char| matches!(u32::from(char), 0x1100..=0x115F | 0x2E80..=0xA4CF | 0xAC00..=0xD7A3 | 0xF900..=0xFAFF | 0xFE30..=0xFE6F | 0xFF00..=0xFF60 | 0xFFE0..=0xFFE6 | 0x20000..=0x3FFFD);
    text.chars().map(|char| 1 + usize::from(wide(char))).sum()
}

/// Puts what was written from `start` on in quotes if it needs them.
fn quote_from(text: &mut String, start: usize) {
    let cell = &text[start..];
    if cell.contains([',', '"', '\n', '\r']) {
        let quoted = format!("\"{}\"", cell.replace('"', "\"\""));
        text.truncate(start);
        text.push_str(&quoted);
    }
}
