//! Which snapshots are kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::tolerant;

/// Which snapshots are kept; the others are forgotten after each backup.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name", "prune"]))]
pub struct RetentionPolicy {
    /// A name for people.
    pub name: String,
    /// How many of the last snapshots are kept.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    #[schemars(range(min = 0))]
    pub keep_last: Option<i64>,
    /// For how many hours the last snapshot of the hour is kept.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    #[schemars(range(min = 0))]
    pub keep_hourly: Option<i64>,
    /// For how many days the last snapshot of the day is kept.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    #[schemars(range(min = 0))]
    pub keep_daily: Option<i64>,
    /// For how many weeks the last snapshot of the week is kept.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    #[schemars(range(min = 0))]
    pub keep_weekly: Option<i64>,
    /// For how many months the last snapshot of the month is kept.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    #[schemars(range(min = 0))]
    pub keep_monthly: Option<i64>,
    /// For how many years the last snapshot of the year is kept.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    #[schemars(range(min = 0))]
    pub keep_yearly: Option<i64>,
    /// Snapshots with one of these tags are kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keep_tags: Vec<String>,
    /// Whether the data of forgotten snapshots is removed from the store.
    pub prune: bool,
    /// Whether nothing is forgotten, and only said what would be.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}
