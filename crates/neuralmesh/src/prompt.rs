//! Asking people: lines, yes or no, and passwords that are not shown.

use crate::context::secret_file;
use crate::output::{note, report::usage};
use clap::Args;
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use nm_types::text::SecretText;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::PathBuf;

/// Where a password comes from; never the command line, which every user of the machine can read.
#[derive(Debug, Clone, Args)]
#[group(required = false, multiple = false)]
pub struct PasswordArgs {
    /// Read the password from a file
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Read the password from standard input
    #[arg(long)]
    pub password_stdin: bool,
}

impl PasswordArgs {
    /// Whether one of the options was used.
    pub fn given(&self) -> bool {
        self.password_stdin || self.password_file.is_some()
    }

    /// The password, asked for at the terminal where no option says otherwise; `twice` for a new one.
    pub fn read(&self, what: &str, twice: bool) -> anyhow::Result<SecretText> {
        if let Some(path) = &self.password_file {
            return secret_file(path);
        }
        if self.password_stdin {
            let mut text = String::new();
            io::stdin().lock().take(65_537).read_to_string(&mut text)?;
            let text = text.trim_end_matches(['\r', '\n']);
            anyhow::ensure!(!text.is_empty(), "there was no password on standard input");
            return Ok(SecretText::new(text));
        }
        let first = hidden(what)?;
        if twice && hidden(&format!("{what} again"))? != first {
            anyhow::bail!("the two are not the same");
        }
        Ok(first)
    }
}

/// A line, shown as it is typed.
pub fn line(what: &str) -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        return Err(usage(format!("{what} is missing, and there is no terminal to ask at")));
    }
    let mut err = io::stderr().lock();
    write!(err, "{what}: ")?;
    err.flush()?;
    let mut text = String::new();
    io::stdin().lock().read_line(&mut text)?;
    let text = text.trim();
    anyhow::ensure!(!text.is_empty(), "nothing was entered");
    Ok(text.to_owned())
}

/// Whether to go on with something that can't be undone. Where nobody can be asked, `force` must have been given.
pub fn confirm(question: &str, force: bool) -> anyhow::Result<bool> {
    if force {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        return Err(usage(format!("{question} There is no terminal to ask at: add --force to go on")));
    }
    let mut err = io::stderr().lock();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut text = String::new();
    io::stdin().lock().read_line(&mut text)?;
    Ok(matches!(text.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// A secret typed at the terminal, not shown.
fn hidden(what: &str) -> anyhow::Result<SecretText> {
    let tty = OpenOptions::new().read(true).write(true).open("/dev/tty");
    let Ok(tty) = tty else {
        return Err(usage(format!(
            "{what} is missing, and there is no terminal to ask at: use --password-file or --password-stdin"
        )));
    };
    let silent = Silent::begin(&tty)?;
    write!(&tty, "{what}: ")?;
    let entered = read_hidden(&tty);
    drop(silent);
    note("");
    let text = entered?;
    anyhow::ensure!(!text.is_empty(), "nothing was entered");
    Ok(SecretText::new(&text))
}

/// Reads to the end of the line. Signals are off meanwhile (they would leave the terminal silent), so ^C is ours to mind.
fn read_hidden(mut tty: &File) -> anyhow::Result<String> {
    let mut typed: Vec<u8> = Vec::new();
    // One byte at a time: what is typed after the line is not ours.
    let mut byte = [0u8];
    while tty.read(&mut byte)? == 1 {
        match byte[0] {
            b'\r' | b'\n' => break,
            3 => anyhow::bail!("interrupted"),
            4 => break,
            // Backspace takes a whole character, not a byte of one.
            8 | 127 => while typed.pop().is_some_and(|b| b & 0xc0 == 0x80) {},
            21 => typed.clear(),
            byte => typed.push(byte),
        }
    }
    String::from_utf8(typed).map_err(|_| anyhow::anyhow!("that is not UTF-8"))
}

/// The terminal without echo, until dropped.
struct Silent<'a> {
    tty: &'a File,
    before: Termios,
}

impl<'a> Silent<'a> {
    fn begin(tty: &'a File) -> io::Result<Self> {
        let before = tcgetattr(tty)?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG);
        silent.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        silent.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(tty, SetArg::TCSAFLUSH, &silent)?;
        Ok(Self { tty, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // Nothing more can be done for a terminal that is gone.
        let _gone = tcsetattr(self.tty, SetArg::TCSAFLUSH, &self.before);
    }
}
