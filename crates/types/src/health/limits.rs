//! The limits of the checks.

use crate::envelope::FieldProblem;
use crate::units::Bounded;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{ObjectBuilder, RefOr, Type};

/// A percentage: 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Percent(f64);

/// Milliseconds: 1 to 60,000.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Millis(f64);

macro_rules! amounts {
    ($($name:ident: $min:literal to $max:literal, $says:literal;)*) => {$(
        impl $name {
            /// `n`, moved to the nearest bound where it lies outside.
            pub const fn clamped(n: f64) -> Self {
                Self(n.clamp($min, $max))
            }
            pub fn get(self) -> f64 {
                self.0
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let n = f64::deserialize(d)?;
                if ($min..=$max).contains(&n) { Ok(Self(n)) } else { Err(serde::de::Error::custom($says)) }
            }
        }
        impl utoipa::PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new().schema_type(Type::Number).minimum(Some($min)).maximum(Some($max)).into()
            }
        }
        impl ToSchema for $name {}
    )*};
}
amounts! {
    Percent: 0.0 to 100.0, "expected a percentage from 0 to 100";
    Millis: 1.0 to 60_000.0, "expected milliseconds from 1 to 60000";
}

/// A limit with a distance between failing and passing again, so that a value beside it does not flap.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PercentLimit {
    pub fail: Percent,
    pub recover: Percent,
}

/// As [`PercentLimit`], in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MillisLimit {
    pub fail: Millis,
    pub recover: Millis,
}

const fn percent(fail: f64, recover: f64) -> PercentLimit {
    PercentLimit {
        fail: Percent::clamped(fail),
        recover: Percent::clamped(recover),
    }
}

/// The limits of all checks. Each fails from `fail` on and passes again under `recover`; `memory`, the share that is still
/// available, the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Thresholds {
    /// Percent of all cores, or of a container's limit.
    pub cpu: PercentLimit,
    /// Checks in a row from which on a busy CPU fails.
    pub cpu_checks: Bounded<1, 20>,
    /// Percent of the memory that is available.
    pub memory: PercentLimit,
    /// Percent of the swap that is used; it counts only while memory is short.
    pub swap: PercentLimit,
    /// Percent of time in which all work waited for memory, where the kernel tells.
    pub memory_pressure: PercentLimit,
    /// Percent of a file system that is used.
    pub disk: PercentLimit,
    /// Percent of a file system's inodes that are used.
    pub inodes: PercentLimit,
    /// Percent of the last ten calls to the server that got no answer in time.
    pub packet_loss: PercentLimit,
    pub round_trip: MillisLimit,
    /// Percent of the packets since the check before that were broken.
    pub interface_errors: PercentLimit,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            cpu: percent(95.0, 85.0),
            cpu_checks: Bounded::clamped(3),
            memory: percent(5.0, 10.0),
            swap: percent(80.0, 70.0),
            memory_pressure: percent(10.0, 5.0),
            disk: percent(90.0, 87.0),
            inodes: percent(90.0, 87.0),
            packet_loss: percent(20.0, 10.0),
            round_trip: MillisLimit {
                fail: Millis::clamped(1000.0),
                recover: Millis::clamped(500.0),
            },
            interface_errors: percent(1.0, 0.5),
        }
    }
}

/// Limits that differ from what holds otherwise; only what is sent counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ThresholdChange {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<PercentLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_checks: Option<Bounded<1, 20>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<PercentLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap: Option<PercentLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_pressure: Option<PercentLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<PercentLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inodes: Option<PercentLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet_loss: Option<PercentLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip: Option<MillisLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_errors: Option<PercentLimit>,
}

impl ThresholdChange {
    /// These over `base`.
    pub fn over(&self, base: Thresholds) -> Thresholds {
        Thresholds {
            cpu: self.cpu.unwrap_or(base.cpu),
            cpu_checks: self.cpu_checks.unwrap_or(base.cpu_checks),
            memory: self.memory.unwrap_or(base.memory),
            swap: self.swap.unwrap_or(base.swap),
            memory_pressure: self.memory_pressure.unwrap_or(base.memory_pressure),
            disk: self.disk.unwrap_or(base.disk),
            inodes: self.inodes.unwrap_or(base.inodes),
            packet_loss: self.packet_loss.unwrap_or(base.packet_loss),
            round_trip: self.round_trip.unwrap_or(base.round_trip),
            interface_errors: self.interface_errors.unwrap_or(base.interface_errors),
        }
    }

    /// Limits under which a check could never pass again once it failed, or would flap; each is named by its field.
    pub fn problems(&self) -> Vec<FieldProblem> {
        let high = [
            ("cpu", self.cpu),
            ("swap", self.swap),
            ("memoryPressure", self.memory_pressure),
            ("disk", self.disk),
            ("inodes", self.inodes),
            ("packetLoss", self.packet_loss),
            ("interfaceErrors", self.interface_errors),
        ];
        let high = high.into_iter().filter_map(|(n, l)| l.map(|l| (n, l.recover.get() > l.fail.get())));
        let trip = self.round_trip.map(|l| ("roundTrip", l.recover.get() > l.fail.get()));
        let above = high.chain(trip).filter(|(_, wrong)| *wrong).map(|(name, _)| FieldProblem {
            field: format!("thresholds.{name}.recover"),
            message: "is at most `fail`: the check passes again below it".into(),
        });
        let memory = self.memory.filter(|l| l.recover.get() < l.fail.get()).map(|_| FieldProblem {
            field: "thresholds.memory.recover".into(),
            message: "is at least `fail`: the check passes again once more than that is available".into(),
        });
        above.chain(memory).collect()
    }
}
