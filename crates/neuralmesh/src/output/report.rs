//! Errors as people read them.

use super::table::clean;
use crate::client::ClientError;
use std::fmt::Write as _;

/// A wrong use that clap can't see; the program then ends with 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// An [`anyhow::Error`] of wrong use.
pub fn usage(text: impl Into<String>) -> anyhow::Error {
    Usage(text.into()).into()
}

/// What to print for an error: one sentence, then fields, log lines and what to do next, each where there are some.
pub fn describe(error: &anyhow::Error) -> String {
    let mut out = String::new();
    let mut sentence = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        // A cause that its effect quotes already says nothing new.
        if !sentence.contains(&text) {
            if !sentence.is_empty() {
                sentence.push_str(": ");
            }
            sentence.push_str(&text);
        }
    }
    let _infallible = write!(out, "error: {}", clean(&sentence));
    let Some(failed) = error.chain().find_map(|cause| cause.downcast_ref::<ClientError>()) else {
        return out;
    };
    let said = |message: &str| sentence.contains(message);
    for problem in failed.details().iter().filter(|p| !said(&p.message)) {
        let _infallible = write!(out, "\n  {}: {}", clean(&problem.field), clean(&problem.message));
    }
    if !failed.logs().is_empty() {
        out.push_str("\nits last log lines:");
        for line in failed.logs() {
            let _infallible = write!(out, "\n  | {}", clean(line));
        }
    }
    if let Some(hint) = failed.hint() {
        let _infallible = write!(out, "\n{}", clean(&hint));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::error::SignedInBy;
    use anyhow::Context as _;
    use nm_types::envelope::{ErrorBody, FieldProblem};

    #[test]
    fn an_error_says_what_where_why_and_what_next() {
        let problem = |field: &str, message: &str| FieldProblem {
            field: field.into(),
            message: message.into(),
        };
        let body = ErrorBody {
            success: false,
            error: "2 fields can't be taken as they are".into(),
            code: "invalid_field".into(),
            request_id: "r1".into(),
            details: vec![
                problem("ports[0].host", "port 80 is mapped twice"),
                problem("name", "`list` is reserved"),
            ],
            operation_id: Some("op_1_abcdefghi".into()),
            logs: vec!["bye\u{1b}[2J".into()],
        };
        let error = ClientError::Refused {
            status: 422,
            body: Box::new(body),
            retry_after: None,
            signed_in_by: SignedInBy::Login,
            server: "http://h".into(),
        };
        let error = Err::<(), _>(error).context("create web").unwrap_err();
        assert_eq!(
            describe(&error),
            "error: create web: 2 fields can't be taken as they are\n  ports[0].host: port 80 is mapped twice\n  name: `list` is reserved\n\
             its last log lines:\n  | bye\u{fffd}[2J\nits steps and log: neuralmesh operations get op_1_abcdefghi"
        );
    }

    #[test]
    fn a_cause_is_not_said_twice() {
        let error = anyhow::anyhow!("no such file").context("can't read x: no such file");
        assert_eq!(describe(&error), "error: can't read x: no such file");
    }
}
