//! NeuralMesh's one binary: a client of the API for people and scripts, and the control plane and the agent themselves.
//!
//! It is the only reader of the environment; everything below gets its settings handed in.

mod backup_worker;
mod cli;
mod client;
mod commands;
mod context;
mod hello;
mod input;
mod install;
mod memory;
mod output;
mod own_backup;
mod prompt;
mod proxy;
mod run;
mod serve;
mod telemetry;
mod trial;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else is read or begun: these have their own ways to be told what to do.
    if backup_worker::is_asked_for() {
        return backup_worker::run();
    }
    if let Some(settings) = proxy::settings() {
        return ended(proxy::serve(&settings).map(|()| 0));
    }
    let command = cli::read();
    if command.runs_for_long() {
        memory::begin_again();
    }
    let mut runtime = if command.runs_for_long() {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            output::note(format!("error: can't start: {e}"));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(commands::dispatch(command));
    // A read of the terminal that nobody waits for any more must not hold up the end.
    runtime.shutdown_background();
    ended(outcome)
}

/// Says what went wrong; the exit code.
fn ended(outcome: anyhow::Result<u8>) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(e) if is_closed_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            output::note(output::report::describe(&e));
            let interrupted = e.is::<commands::operations::Interrupted>();
            let wrong_use = e.chain().any(|cause| cause.is::<output::report::Usage>());
            ExitCode::from(match (wrong_use, interrupted) {
                (true, _) => 2,
                (_, true) => 130,
                _ => 1,
            })
        }
    }
}

/// `… | head` has read enough: nothing went wrong.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
