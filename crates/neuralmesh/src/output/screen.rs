//! A place on the terminal where a text is drawn over itself, as `top` does. Where there is no terminal, each is printed.

use crate::output::terminal_width;
use crossterm::{cursor, queue, terminal};
use std::io::{self, IsTerminal, Write};

#[derive(Debug)]
pub struct Screen {
    /// Lines of the last text.
    drawn: u16,
    terminal: bool,
}

impl Screen {
    /// On standard output.
    pub fn new() -> Self {
        Self {
            drawn: 0,
            terminal: io::stdout().is_terminal(),
        }
    }

    /// The width to fit texts into.
    pub fn width(&self) -> Option<u16> {
        if self.terminal { terminal_width() } else { None }
    }

    pub fn draw(&mut self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if !self.terminal {
            return writeln!(out, "{text}\n");
        }
        if self.drawn > 0 {
            queue!(out, cursor::MoveToPreviousLine(self.drawn))?;
        }
        queue!(out, terminal::Clear(terminal::ClearType::FromCursorDown))?;
        // More than fits can't be drawn over.
        let height = terminal::size().ok().map(|(_, rows)| rows).filter(|rows| *rows > 0);
        let height = height.map_or(usize::MAX, |rows| usize::from(rows.saturating_sub(1)));
        let lines: Vec<&str> = text.lines().take(height.max(2)).collect();
        for line in &lines {
            writeln!(out, "{line}")?;
        }
        self.drawn = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        out.flush()
    }
}
