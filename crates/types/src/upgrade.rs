//! New executables for agents.

use crate::Timestamp;
use crate::text::{BadText, string_schema};
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// A version as releases have it, `0.6.0` or `0.6.0-rc.1`, ordered as <https://semver.org> says.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleaseVersion(semver::Version);

impl ReleaseVersion {
    pub fn parse(text: &str) -> Result<Self, BadText> {
        let bad = || BadText("a version is three numbers and perhaps an ending, such as `0.6.0` or `0.6.0-rc.1`".into());
        let version = semver::Version::parse(text).map_err(|_| bad())?;
        if text.len() <= 64 { Ok(Self(version)) } else { Err(bad()) }
    }
}
impl fmt::Display for ReleaseVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Debug for ReleaseVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl TryFrom<String> for ReleaseVersion {
    type Error = BadText;
    fn try_from(text: String) -> Result<Self, BadText> {
        Self::parse(&text)
    }
}
impl std::str::FromStr for ReleaseVersion {
    type Err = BadText;
    fn from_str(text: &str) -> Result<Self, BadText> {
        Self::parse(text)
    }
}
impl From<ReleaseVersion> for String {
    fn from(version: ReleaseVersion) -> String {
        version.0.to_string()
    }
}
impl utoipa::PartialSchema for ReleaseVersion {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        string_schema(
            "^(?:0|[1-9][0-9]{0,9})\\.(?:0|[1-9][0-9]{0,9})\\.(?:0|[1-9][0-9]{0,9})(?:-[0-9A-Za-z-]+(?:\\.[0-9A-Za-z-]+)*)?(?:\\+[0-9A-Za-z-]+(?:\\.[0-9A-Za-z-]+)*)?$",
            None,
            Some(64),
            "A version of a release: `0.6.0`.",
        )
    }
}
impl ToSchema for ReleaseVersion {}

/// What an executable runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum Platform {
    #[serde(rename = "linux-x86_64")]
    LinuxX86_64,
    #[serde(rename = "linux-aarch64")]
    LinuxAarch64,
}

impl Platform {
    pub const ALL: [Self; 2] = [Self::LinuxX86_64, Self::LinuxAarch64];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::LinuxX86_64 => "linux-x86_64",
            Self::LinuxAarch64 => "linux-aarch64",
        }
    }
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str() == text)
    }
    /// Of the names that Rust has for systems and processors.
    pub fn of(os: &str, arch: &str) -> Option<Self> {
        Self::parse(&format!("{os}-{arch}"))
    }
    /// The number of the processor in an ELF file's head (`e_machine`,
    /// <https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html>).
    pub fn elf_machine(self) -> u16 {
        match self {
            Self::LinuxX86_64 => 62,
            Self::LinuxAarch64 => 183,
        }
    }
}
impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl std::str::FromStr for Platform {
    type Err = BadText;
    fn from_str(text: &str) -> Result<Self, BadText> {
        Self::parse(text).ok_or_else(|| BadText("a platform is `linux-x86_64` or `linux-aarch64`".into()))
    }
}

/// `POST /api/nodes/{id}/upgrade`; the body may be left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpgradeNode {
    /// Also to an older version than the node runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// An executable that nodes can be upgraded to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BinaryView {
    pub platform: Platform,
    pub version: ReleaseVersion,
    /// 64 hexadecimal digits.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// When it was uploaded; absent on the control plane's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uploaded: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_releases_are() {
        let order = ["0.4.9", "0.5.0-rc.1", "0.5.0-rc.2", "0.5.0", "0.10.0", "1.0.0"];
        let parsed: Vec<_> = order.iter().map(|v| ReleaseVersion::parse(v).unwrap()).collect();
        assert!(parsed.is_sorted());
        assert_eq!(parsed[1].to_string(), "0.5.0-rc.1");
        for bad in [
            "",
            "1",
            "1.2",
            "v1.2.3",
            "1.2.3 ",
            "01.2.3",
            "1.2.3-",
            "latest",
            &format!("1.2.3-{}", "a".repeat(70)),
        ] {
            assert!(ReleaseVersion::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn platforms_read_back() {
        for platform in Platform::ALL {
            assert_eq!(Platform::parse(platform.as_str()), Some(platform));
            assert_eq!(serde_json::to_value(platform).unwrap(), platform.as_str());
        }
        assert_eq!(Platform::of("linux", "x86_64"), Some(Platform::LinuxX86_64));
        assert!(Platform::of("macos", "x86_64").is_none() && Platform::parse("linux-").is_none());
    }
}
