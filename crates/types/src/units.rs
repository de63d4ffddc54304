//! Amounts: CPU cores, memory, seconds, ports.

use crate::text::{BadText, string_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{ObjectBuilder, RefOr, Type};

/// CPU cores, 0.1 to 64, kept as thousandths of a core.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CpuLimit(u32);

impl CpuLimit {
    pub fn from_cores(cores: f64) -> Result<Self, BadText> {
        if (0.1..=64.0).contains(&cores) {
            Ok(Self((cores * 1000.0).round() as u32))
        } else {
            Err(BadText("cpuLimit is a number of cores from 0.1 to 64".into()))
        }
    }
    pub fn cores(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
    /// Docker's unit: billionths of a core.
    pub fn nano_cpus(self) -> i64 {
        i64::from(self.0) * 1_000_000
    }
}
impl Serialize for CpuLimit {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(1000) {
            s.serialize_u32(self.0 / 1000)
        } else {
            s.serialize_f64(self.cores())
        }
    }
}
impl<'de> Deserialize<'de> for CpuLimit {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::from_cores(f64::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}
impl utoipa::PartialSchema for CpuLimit {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Number)
            .minimum(Some(0.1))
            .maximum(Some(64.0))
            .description(Some("CPU cores."))
            .into()
    }
}
impl utoipa::ToSchema for CpuLimit {}

/// An amount of memory as Docker writes it: `512m`, `1g`. Keeps the text it was given. Docker's least is 6 MiB.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemoryLimit {
    text: Box<str>,
    bytes: u64,
}

impl MemoryLimit {
    pub const PATTERN: &'static str = "^(?:[1-9][0-9]{4,9}[kK]|(?:[6-9]|[1-9][0-9]{1,6})[mM]|[1-9][0-9]{0,3}[gG])$";

    pub fn parse(text: &str) -> Result<Self, BadText> {
        let bad = || BadText("a memory limit is digits and one of k, m or g, from 6m to 9999g: `512m`, `1g`".into());
        let (digits, unit) = match text.bytes().next_back() {
            Some(b'k' | b'K') => (&text[..text.len() - 1], 1u64 << 10),
            Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
            Some(b'g' | b'G') => (&text[..text.len() - 1], 1 << 30),
            _ => return Err(bad()),
        };
        if digits.is_empty() || digits.len() > 10 || digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(bad)?;
        if !((6 << 20)..=(9999u64 << 30)).contains(&bytes) {
            return Err(bad());
        }
        Ok(Self { text: text.into(), bytes })
    }
    /// `bytes` in the largest unit that loses nothing worth keeping (whole KiB).
    pub fn from_bytes(bytes: u64) -> Self {
        let text = if bytes.is_multiple_of(1 << 30) {
            format!("{}g", bytes >> 30)
        } else if bytes.is_multiple_of(1 << 20) {
            format!("{}m", bytes >> 20)
        } else {
            format!("{}k", bytes >> 10)
        };
        Self { text: text.into(), bytes }
    }
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
    pub fn as_str(&self) -> &str {
        &self.text
    }
}
impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl fmt::Debug for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl TryFrom<String> for MemoryLimit {
    type Error = BadText;
    fn try_from(s: String) -> Result<Self, BadText> {
        Self::parse(&s)
    }
}
impl std::str::FromStr for MemoryLimit {
    type Err = BadText;
    fn from_str(s: &str) -> Result<Self, BadText> {
        Self::parse(s)
    }
}
impl From<MemoryLimit> for String {
    fn from(m: MemoryLimit) -> String {
        m.text.into()
    }
}
impl utoipa::PartialSchema for MemoryLimit {
    fn schema() -> RefOr<Schema> {
        string_schema(
            Self::PATTERN,
            None,
            Some(11),
            "Memory as Docker writes it: digits and k, m or g; at least 6m.",
        )
    }
}
impl utoipa::ToSchema for MemoryLimit {}

/// A port, 1 to 65535.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct Port(u16);

impl Port {
    pub fn new(port: u16) -> Option<Self> {
        (port != 0).then_some(Self(port))
    }
    pub fn get(self) -> u16 {
        self.0
    }
}
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let n = i64::deserialize(d)?;
        u16::try_from(n)
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| serde::de::Error::custom("a port is a whole number from 1 to 65535"))
    }
}
impl utoipa::PartialSchema for Port {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .maximum(Some(65535))
            .into()
    }
}
impl utoipa::ToSchema for Port {}

/// A whole number between two bounds that its type states.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(transparent)]
pub struct Bounded<const MIN: i64, const MAX: i64>(i64);

impl<const MIN: i64, const MAX: i64> Bounded<MIN, MAX> {
    pub fn new(n: i64) -> Option<Self> {
        (MIN..=MAX).contains(&n).then_some(Self(n))
    }
    /// `n`, moved to the nearest bound where it lies outside.
    pub const fn clamped(n: i64) -> Self {
        Self(if n < MIN {
            MIN
        } else if n > MAX {
            MAX
        } else {
            n
        })
    }
    pub fn get(self) -> i64 {
        self.0
    }
}
impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(i64::deserialize(d)?).ok_or_else(|| serde::de::Error::custom(format!("expected a whole number from {MIN} to {MAX}")))
    }
}
impl<const MIN: i64, const MAX: i64> std::str::FromStr for Bounded<MIN, MAX> {
    type Err = BadText;
    fn from_str(s: &str) -> Result<Self, BadText> {
        s.parse()
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| BadText(format!("expected a whole number from {MIN} to {MAX}")))
    }
}
impl<const MIN: i64, const MAX: i64> utoipa::PartialSchema for Bounded<MIN, MAX> {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(MIN as f64))
            .maximum(Some(MAX as f64))
            .into()
    }
}
impl<const MIN: i64, const MAX: i64> utoipa::ToSchema for Bounded<MIN, MAX> {
    fn name() -> std::borrow::Cow<'static, str> {
        format!("Int{MIN}To{MAX}").replace('-', "Minus").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory() {
        for (text, bytes) in [
            ("512m", 512 << 20),
            ("1g", 1 << 30),
            ("6m", 6 << 20),
            ("65536k", 64 << 20),
            ("2G", 2 << 30),
        ] {
            assert_eq!(MemoryLimit::parse(text).unwrap().bytes(), bytes, "{text}");
        }
        for bad in [
            "lots",
            "",
            "m",
            "512",
            "-1g",
            "0m",
            "5m",
            "1.5g",
            "1t",
            "99999999999999999999g",
            "512mb",
            " 1g",
            "10000g",
        ] {
            assert!(MemoryLimit::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(MemoryLimit::from_bytes(1 << 30).as_str(), "1g");
    }

    #[test]
    fn cpu() {
        assert_eq!(CpuLimit::from_cores(0.5).unwrap().nano_cpus(), 500_000_000);
        assert!(CpuLimit::from_cores(0.05).is_err());
        assert!(CpuLimit::from_cores(f64::NAN).is_err());
        assert_eq!(serde_json::to_string(&CpuLimit::from_cores(2.0).unwrap()).unwrap(), "2");
    }
}
