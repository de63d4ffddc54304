//! A finding: figures, of which words are made when somebody reads them. There is one for each check of each server, so they
//! are kept small.

use nm_types::health::{Check, CheckDetail};
use std::borrow::Cow;
use std::fmt;

type Text = Cow<'static, str>;

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub enum Quantity {
    Percent(f64),
    Millis(f64),
    Said(Text),
    Unmeasured,
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(n) => write!(f, "{} %", (n * 10.0).round() / 10.0),
            Self::Millis(n) => write!(f, "{} ms", (n * 10.0).round() / 10.0),
            Self::Said(text) => f.write_str(text),
            Self::Unmeasured => f.write_str("not measured"),
        }
    }
}

/// What it may be.
#[derive(Debug, Clone, PartialEq)]
pub enum Limit {
    Under(Quantity),
    Over(Quantity),
    AtLeast(Quantity),
    Is(Text),
    None,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Under(q) => write!(f, "under {q}"),
            Self::Over(q) => write!(f, "over {q}"),
            Self::AtLeast(q) => write!(f, "at least {q}"),
            Self::Is(text) => f.write_str(text),
            Self::None => Ok(()),
        }
    }
}

/// What one check found. A check has several where several things fail.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub check: Check,
    pub ok: bool,
    pub measured: Quantity,
    pub limit: Limit,
    pub message: Text,
}

impl Finding {
    /// Of a check that could not be made.
    pub fn unmeasured(check: Check, ok: bool, why: &'static str) -> Self {
        Self::unmeasured_for(check, ok, format_args!("{why}"))
    }

    pub fn unmeasured_for(check: Check, ok: bool, why: fmt::Arguments<'_>) -> Self {
        let message = match why.as_str() {
            Some(text) => Text::Borrowed(text),
            None => Text::Owned(why.to_string()),
        };
        Self {
            check,
            ok,
            measured: Quantity::Unmeasured,
            limit: Limit::None,
            message,
        }
    }

    /// Of a service: what it is (`docker`), and what is to be said of it.
    pub fn service(ok: bool, measured: impl Into<Text>, limit: impl Into<Text>, message: impl Into<Text>) -> Self {
        Self {
            check: Check::Services,
            ok,
            measured: Quantity::Said(measured.into()),
            limit: Limit::Is(limit.into()),
            message: message.into(),
        }
    }

    /// In words, for people.
    pub fn detail(&self) -> CheckDetail {
        let message = match self.measured {
            Quantity::Unmeasured => format!("not measured: {}", self.message),
            Quantity::Percent(_) | Quantity::Millis(_) | Quantity::Said(_) => self.message.clone().into_owned(),
        };
        CheckDetail {
            check: self.check,
            ok: self.ok,
            measured: self.measured.to_string(),
            limit: self.limit.to_string(),
            message,
        }
    }
}
