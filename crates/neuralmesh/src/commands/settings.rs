//! Fields of the API on a command line: `--set autoScaling.maxServers=15`.

use crate::output::report::usage;
use anyhow::Context as _;
use serde_json::{Map, Value, json};
use std::path::Path;

/// A field by its path, and its value: JSON where it is some, text otherwise, nothing for its default. `secret` has the fields that
/// do not belong on a command line, each with the option that takes it from a file.
pub fn parse(text: &str, secret: &[(&str, &str)]) -> Result<(String, Value), String> {
    let (field, value) = text.split_once('=').ok_or("write a setting as field=value")?;
    if field.is_empty() || field.split('.').any(str::is_empty) {
        return Err(format!("`{field}` is no field"));
    }
    let value: Value = match value {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
    };
    if let Some((_, flag)) = secret.iter().find(|(secret, _)| names(field, &value, secret)) {
        return Err(format!(
            "a key does not belong on a command line, which others can see: use {flag} FILE"
        ));
    }
    Ok((field.to_owned(), value))
}

/// Whether a setting says anything of `secret`: by its path, or inside its value.
fn names(field: &str, value: &Value, secret: &str) -> bool {
    let below = |outer: &str, inner: &str| inner == outer || inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'));
    if below(secret, field) {
        return true;
    }
    let Some(rest) = secret.strip_prefix(field).and_then(|rest| rest.strip_prefix('.')) else {
        return false;
    };
    let pointer = format!("/{}", rest.replace('.', "/"));
    value.pointer(&pointer).is_some_and(|held| !held.is_null())
}

/// Puts a value where its path says.
pub fn put(body: &mut Map<String, Value>, field: &str, value: Value) -> anyhow::Result<()> {
    let (first, rest) = match field.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (field, None),
    };
    let Some(rest) = rest else {
        body.insert(first.to_owned(), value);
        return Ok(());
    };
    match body.entry(first.to_owned()).or_insert_with(|| json!({})) {
        Value::Object(inner) => put(inner, rest, value),
        _ => Err(usage(format!("`{first}` is set to a value of its own already"))),
    }
}

/// A file's text; `-` is standard input.
pub fn read(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        return std::io::read_to_string(std::io::stdin()).context("can't read standard input");
    }
    std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_no_setting_wherever_it_stands() {
        let secret = [("copy.credentials", "--copy-credentials")];
        for bad in [
            "copy.credentials={}",
            "copy.credentials.password=x",
            r#"copy={"destination":"/a","credentials":{"password":"x"}}"#,
        ] {
            assert!(parse(bad, &secret).is_err_and(|why| why.contains("--copy-credentials")), "{bad}");
        }
        for good in ["copy.destination=/a", r#"copy={"destination":"/a"}"#, "copy="] {
            assert!(parse(good, &secret).is_ok(), "{good}");
        }
    }
}
