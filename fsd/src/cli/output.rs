//! Where a verb prints: buffered standard output that never panics and knows about JSON and quiet mode.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal as _, Write};

use serde::Serialize;

use super::{CliResult, GlobalArgs};

/// Standard output of a verb. What was written is flushed by [`Out::finish`]; a closed pipe is an error that ends the verb
/// in silence.
pub struct Out {
    to: Box<dyn Write + Send>,
    /// Print JSON.
    pub json: bool,
    /// Print results only.
    pub quiet: bool,
    /// How much more to say (`-v`).
    pub verbose: u8,
    terminal: bool,
}

impl fmt::Debug for Out {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Out").field("json", &self.json).field("terminal", &self.terminal).finish_non_exhaustive()
    }
}

impl Out {
    /// Standard output under the options of every verb.
    #[must_use]
    pub fn stdout(global: &GlobalArgs) -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        Self {
            to: Box::new(BufWriter::with_capacity(64 << 10, stdout)),
            json: global.json,
            quiet: global.quiet,
            verbose: global.verbosity(),
            terminal,
        }
    }

    /// Prints one line.
    ///
    /// # Errors
    /// Standard output failed or was closed.
    pub fn line(&mut self, text: impl fmt::Display) -> CliResult<()> {
        writeln!(self.to, "{text}")?;
        // A person or a pipeline that looks at a terminal sees lines as they come.
        if self.terminal {
            self.to.flush()?;
        }
        Ok(())
    }

    /// Prints a line that tells a person what happened; nothing in quiet mode or with JSON.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn say(&mut self, text: impl fmt::Display) -> CliResult<()> {
        if self.json || self.quiet { Ok(()) } else { self.line(text) }
    }

    /// Prints a value as one line of JSON.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn json_line(&mut self, value: &impl Serialize) -> CliResult<()> {
        serde_json::to_writer(&mut self.to, value).map_err(io::Error::from)?;
        self.line("")
    }

    /// Prints bytes as they are.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn bytes(&mut self, bytes: &[u8]) -> CliResult<()> {
        self.to.write_all(bytes)?;
        Ok(())
    }

    /// Flushes: the last call of a verb.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn finish(&mut self) -> CliResult<()> {
        self.to.flush()?;
        Ok(())
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Shows a name or path from a repository to a person: control characters are escaped, so that a hostile name cannot
/// move the cursor of a terminal, and bytes that are not UTF-8 are shown as `\xNN`.
#[must_use]
pub fn show_name(name: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut shown = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => shown.push_str("\\n"),
                '\r' => shown.push_str("\\r"),
                '\t' => shown.push_str("\\t"),
                // C0, DEL, C1, and the marks that change the direction of text.
                c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                    let _ = write!(shown, "\\u{{{:x}}}", u32::from(c));
                }
                c => shown.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// A table with left-aligned columns, two spaces apart, under a header and between rules, as restic prints them.
#[derive(Debug, Default)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    footer: Vec<String>,
}

impl Table {
    /// A table with these columns.
    #[must_use]
    pub fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|&name| name.to_owned()).collect(), ..Self::default() }
    }

    /// Adds a row. A cell of several lines makes the row that high.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Adds a line below the table.
    pub fn footer(&mut self, line: impl Into<String>) {
        self.footer.push(line.into());
    }

    /// Prints the table.
    ///
    /// # Errors
    /// Standard output failed or was closed.
    pub fn print(&self, out: &mut Out) -> CliResult<()> {
        for line in self.lines() {
            out.line(line)?;
        }
        Ok(())
    }

    fn lines(&self) -> Vec<String> {
        let width = |text: &str| text.chars().count();
        let mut widths: Vec<usize> = self.header.iter().map(|cell| width(cell)).collect();
        for row in &self.rows {
            for (column, cell) in widths.iter_mut().zip(row) {
                *column = cell.lines().map(width).max().unwrap_or(0).max(*column);
            }
        }
        let join = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for (cell, column) in cells.zip(&widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', column + 2 - width(cell)));
            }
            line.trim_end().to_owned()
        };
        let mut lines = vec![join(&mut self.header.iter().map(String::as_str))];
        let rule_length = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
        let rule = "-".repeat(self.footer.iter().map(|line| width(line)).fold(rule_length, usize::max));
        lines.push(rule.clone());
        for row in &self.rows {
            let height = row.iter().map(|cell| cell.lines().count()).max().unwrap_or(0).max(1);
            for i in 0..height {
                lines.push(join(&mut row.iter().map(|cell| cell.lines().nth(i).unwrap_or(""))));
            }
        }
        lines.push(rule);
        lines.extend(self.footer.iter().cloned());
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_show_name_escapes_what_moves_a_terminal() {
        assert_eq!(show_name(b"a\x1b[2Jb\n\xff\x7f"), "a\\u{1b}[2Jb\\n\\xff\\u{7f}");
        assert_eq!(show_name("ü ✓".as_bytes()), "ü ✓");
        assert_eq!(show_name("\u{202e}x".as_bytes()), "\\u{202e}x");
    }

    #[test]
    fn test_table_is_as_wide_as_its_widest_cell() {
        let mut table = Table::new(&["ID", "Paths"]);
        table.row(vec!["1234".into(), "/a\n/bcdef".into()]);
        table.footer("1 snapshots");
        assert_eq!(
            table.lines(),
            ["ID    Paths", "------------", "1234  /a", "      /bcdef", "------------", "1 snapshots"]
        );
    }
}
