//! `neuralmesh completion SHELL`

use crate::cli::Cli;
use clap::{Args, CommandFactory, ValueEnum};
use std::io::Write;

#[derive(Debug, Clone, Copy, Args)]
#[command(after_help = "\
Examples:
  source <(neuralmesh completion bash)
  neuralmesh completion bash > /etc/bash_completion.d/neuralmesh
  neuralmesh completion zsh > \"${fpath[1]}/_neuralmesh\"
  neuralmesh completion fish > ~/.config/fish/completions/neuralmesh.fish")]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: ShellArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ShellArg {
    Bash,
    Zsh,
    Fish,
}

pub fn completion(args: CompletionArgs) -> anyhow::Result<u8> {
    let shell = match args.shell {
        ShellArg::Bash => clap_complete::Shell::Bash,
        ShellArg::Zsh => clap_complete::Shell::Zsh,
        ShellArg::Fish => clap_complete::Shell::Fish,
    };
    // Into memory first: writing straight to a pipe that closes would panic.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "neuralmesh", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(0)
}
