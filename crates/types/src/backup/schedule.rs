//! Cron lines of five fields, and `@daily` and the like.

use crate::text::{BadText, string_schema};
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

/// What a line says, each field as a set of bits: bit n is value n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CronFields {
    pub minutes: u64,
    pub hours: u32,
    /// 1 to 31.
    pub days: u32,
    /// 1 to 12.
    pub months: u16,
    /// 0 (Sunday) to 6.
    pub weekdays: u8,
    /// Days and weekdays are both named: either will do, as in cron.
    pub either_day: bool,
}

/// A cron line as it was written, known to be one.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CronSchedule {
    text: Box<str>,
    fields: CronFields,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const LONGEST: usize = 256;

impl CronSchedule {
    pub fn parse(text: &str) -> Result<Self, BadText> {
        let fields = read(text)?;
        Ok(Self { text: text.into(), fields })
    }
    /// The rule of [`Self::parse`] as a regular expression.
    pub fn pattern() -> String {
        let one = |value: &str| {
            let entry = format!("(?:\\*|{value}(?:-{value})?)(?:/(?:[1-9]|0[1-9]|[1-9][0-9]))?");
            format!("{entry}(?:,{entry})*")
        };
        let named = |value: &str, names: &[&str]| {
            let any_case = |name: &&str| name.chars().map(|c| format!("[{}{c}]", c.to_ascii_uppercase())).collect::<String>();
            one(&format!("(?:{value}|{})", names.iter().map(any_case).collect::<Vec<_>>().join("|")))
        };
        format!(
            "^(?:@(?:yearly|annually|monthly|weekly|daily|midnight|hourly)|{} {} {} {} {})$",
            one("[0-5]?[0-9]"),
            one("(?:[01]?[0-9]|2[0-3])"),
            one("(?:0?[1-9]|[12][0-9]|3[01])"),
            named("(?:0?[1-9]|1[0-2])", &MONTHS),
            named("0?[0-7]", &WEEKDAYS),
        )
    }
    pub fn as_str(&self) -> &str {
        &self.text
    }
    pub fn fields(&self) -> CronFields {
        self.fields
    }
    /// Whether the days it names are in none of its months (February 30), and no weekday helps.
    pub fn never_comes(&self) -> bool {
        const LONGEST_MONTHS: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let fields = self.fields;
        let comes = |(days, month): (&u32, u32)| fields.months & (1 << month) != 0 && u64::from(fields.days) & every(1, *days) != 0;
        !fields.either_day && !LONGEST_MONTHS.iter().zip(1..).any(comes)
    }
    /// Sundays at midnight.
    pub fn weekly() -> Self {
        Self {
            text: "@weekly".into(),
            fields: CronFields {
                minutes: 1,
                hours: 1,
                days: every(1, 31) as u32,
                months: every(1, 12) as u16,
                weekdays: 1,
                either_day: false,
            },
        }
    }
}

const fn every(from: u32, to: u32) -> u64 {
    let mut bits = 0;
    let mut n = from;
    while n <= to {
        bits |= 1 << n;
        n += 1;
    }
    bits
}

fn read(text: &str) -> Result<CronFields, BadText> {
    if text.chars().count() > LONGEST {
        return Err(BadText(format!("a schedule has at most {LONGEST} characters")));
    }
    let line = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        other => other,
    };
    let parts: Vec<&str> = line.split(' ').collect();
    let [minute, hour, day, month, weekday] = parts[..] else {
        return Err(BadText(
            "a schedule has five fields with one space between them (minute hour day month weekday), such as `0 2 * * *`, or is \
             `@hourly`, `@daily`, `@weekly`, `@monthly` or `@yearly`"
                .into(),
        ));
    };
    let minutes = field(minute, "minute", 0, 59, &[], 0)?;
    let hours = field(hour, "hour", 0, 23, &[], 0)?;
    let days = field(day, "day of the month", 1, 31, &[], 0)?;
    let months = field(month, "month", 1, 12, &MONTHS, 1)?;
    let mut weekdays = field(weekday, "weekday", 0, 7, &WEEKDAYS, 0)?;
    if weekdays & (1 << 7) != 0 {
        weekdays = (weekdays | 1) & 0x7f;
    }
    Ok(CronFields {
        minutes,
        hours: hours as u32,
        days: days as u32,
        months: months as u16,
        weekdays: weekdays as u8,
        either_day: !day.starts_with('*') && !weekday.starts_with('*'),
    })
}

fn field(text: &str, name: &str, least: u32, most: u32, names: &[&str], first: u32) -> Result<u64, BadText> {
    let bad = |why: String| BadText(format!("the {name} of a schedule is {why}, not `{text}`"));
    let value = |word: &str| -> Option<u32> {
        let lower = word.to_ascii_lowercase();
        if let Some(at) = names.iter().position(|n| *n == lower) {
            return u32::try_from(at).ok().map(|at| at + first);
        }
        let plain = (1..=2).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| word.parse().ok()).flatten().filter(|n| (least..=most).contains(n))
    };
    let range = || format!("`*`, or numbers from {least} to {most} with `,`, `-` and `/` between them");
    let mut bits = 0;
    for entry in text.split(',') {
        let (span, step) = match entry.split_once('/') {
            Some((span, step)) => (span, Some(step)),
            None => (entry, None),
        };
        let step = match step {
            None => None,
            Some(step) if (1..=2).contains(&step.len()) && step.bytes().all(|b| b.is_ascii_digit()) => {
                Some(step.parse::<u32>().ok().filter(|n| *n > 0).ok_or_else(|| bad(range()))?)
            }
            Some(_) => return Err(bad(range())),
        };
        let (from, to) = if span == "*" {
            // Seven is Sunday again.
            (least, if most == 7 { 6 } else { most })
        } else if let Some((from, to)) = span.split_once('-') {
            (value(from).ok_or_else(|| bad(range()))?, value(to).ok_or_else(|| bad(range()))?)
        } else {
            let only = value(span).ok_or_else(|| bad(range()))?;
            // `5/15` means from 5 on.
            (only, if step.is_some() { if most == 7 { 6 } else { most } } else { only })
        };
        // A span that begins with 7 begins the week, whose days go from 0 to 6.
        let from = if most == 7 && from == 7 && to != 7 { 0 } else { from };
        // `22-2` goes over the end: 22, 23, 0, 1, 2. Of weekdays 7 is Sunday, as 0 is.
        let last = if most == 7 && to != 7 { 6 } else { most };
        let count = if from <= to { to - from } else { (last - from) + 1 + (to - least) };
        for n in (0..=count).step_by(step.unwrap_or(1) as usize) {
            let at = from + n;
            bits |= 1 << if at > last { at - last - 1 + least } else { at };
        }
    }
    Ok(bits)
}

impl fmt::Display for CronSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl fmt::Debug for CronSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.text)
    }
}
impl TryFrom<String> for CronSchedule {
    type Error = BadText;
    fn try_from(text: String) -> Result<Self, BadText> {
        Self::parse(&text)
    }
}
impl std::str::FromStr for CronSchedule {
    type Err = BadText;
    fn from_str(text: &str) -> Result<Self, BadText> {
        Self::parse(text)
    }
}
impl From<CronSchedule> for String {
    fn from(schedule: CronSchedule) -> Self {
        schedule.text.into()
    }
}
impl utoipa::PartialSchema for CronSchedule {
    fn schema() -> RefOr<Schema> {
        string_schema(
            &Self::pattern(),
            None,
            Some(LONGEST),
            "A cron line of five fields (minute hour day month weekday) with numbers, names (`jan`, `mon`), ranges (`1-5`), lists \
             (`1,15`) and steps (`*/6`), or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.",
        )
    }
}
impl ToSchema for CronSchedule {}

#[cfg(test)]
mod tests;
