//! When and how often: cron lines, durations, retries.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::rules::rule;
use crate::tolerant;

/// Five fields, a descriptor, or an interval; a time zone may come first. Ranges are left to the controller, which explains them.
const CRON: &str = r"^\\s*((CRON_)?TZ=\\S+\\s+)?(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|@every\\s+\\S+|[-0-9A-Za-z*/,?]+(\\s+[-0-9A-Za-z*/,?]+){4})\\s*$";

/// A duration as Go writes it: numbers with units.
const DURATION: &str = r"^[+]?(0|(([0-9]+([.][0-9]*)?|[.][0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$";

/// The schema of a cron line.
pub(crate) struct Cron;

impl JsonSchema for Cron {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Cron".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let message = "a schedule has five fields (minute hour day month weekday), or is a descriptor as @daily";
        json_schema!({
            "type": "string",
            "maxLength": 256,
            "x-kubernetes-validations": json!([rule(format!("self.matches('{CRON}')"), message)]),
        })
    }
}

/// The schema of a cron line of a blueprint, which may hold variables.
pub(crate) struct CronTemplate;

impl JsonSchema for CronTemplate {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "CronTemplate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let message =
            "a schedule has five fields (minute hour day month weekday), is a descriptor as @daily, or holds variables";
        json_schema!({
            "type": "string",
            "maxLength": 256,
            "x-kubernetes-validations": json!([rule(format!("self.contains('${{') || self.matches('{CRON}')"), message)]),
        })
    }
}

/// The schema of a duration.
pub(crate) struct GoDuration;

impl JsonSchema for GoDuration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "GoDuration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 64,
            "x-kubernetes-validations": json!([
                rule(format!("self.matches('{DURATION}')"), "a duration is numbers with units, as 30s, 2m or 1h30m, and not negative"),
            ]),
        })
    }
}

/// How a failed backup is tried again.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryConfig {
    /// How often at most.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    #[schemars(range(min = 0))]
    pub max_retry: Option<i32>,
    /// How long after the failure; at once if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<GoDuration>")]
    pub delay: Option<String>,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { max_retry: Some(1), delay: None }
    }
}
