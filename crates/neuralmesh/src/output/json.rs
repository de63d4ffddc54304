//! JSON laid out anew without being read into values: names keep their order, numbers their digits.

use serde_json::value::RawValue;
use std::fmt::Write as _;

/// `raw`, which is JSON, indented by two spaces.
pub fn pretty(raw: &str) -> String {
    layout(raw, Some(0))
}

/// `raw`, which is JSON, on one line.
pub fn compact(raw: &str) -> String {
    layout(raw, None)
}

/// Several values as one indented array.
pub fn array(items: &[Box<RawValue>]) -> String {
    let joined = items.iter().map(|item| item.get()).collect::<Vec<_>>().join(",");
    pretty(&format!("[{joined}]"))
}

fn layout(raw: &str, indent: Option<usize>) -> String {
    let mut out = String::with_capacity(raw.len() * 2);
    let mut depth = indent.unwrap_or_default();
    let break_line = |out: &mut String, depth: usize| {
        if indent.is_some() {
            out.push('\n');
            out.extend(std::iter::repeat_n("  ", depth));
        }
    };
    let mut chars = raw.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                out.push(c);
                let mut escaped = false;
                for c in chars.by_ref() {
                    // JSON lets DEL and the C1 controls stand as they are; a terminal would obey them.
                    if c.is_control() {
                        let _infallible = write!(out, "\\u{:04x}", u32::from(c));
                        continue;
                    }
                    out.push(c);
                    match c {
                        _ if escaped => escaped = false,
                        '\\' => escaped = true,
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                if let Some(end) = chars.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    break_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                break_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                break_line(&mut out, depth);
            }
            ':' => out.push_str(if indent.is_some() { ": " } else { ":" }),
            _ if c.is_ascii_whitespace() => {}
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_changes_nothing_but_white_space() {
        let raw = "{\"z\" : [1.50, {} ,[ ],\n{\"a\\\"{,\\\\\":\"b: c, [d]\"}],\"a\":null}";
        assert_eq!(
            pretty(raw),
            "{\n  \"z\": [\n    1.50,\n    {},\n    [],\n    {\n      \"a\\\"{,\\\\\": \"b: c, [d]\"\n    }\n  ],\n  \"a\": null\n}"
        );
        assert_eq!(compact(raw), "{\"z\":[1.50,{},[],{\"a\\\"{,\\\\\":\"b: c, [d]\"}],\"a\":null}");
        assert_eq!(compact(&pretty(raw)), compact(raw));
        assert_eq!(pretty("[]"), "[]");
        assert_eq!(compact("[\"\u{9b}2J\"]"), "[\"\\u009b2J\"]");
    }
}
