//! Prometheus' text format. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Gauges as they are collected: by name, and each under its labels once.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    families: BTreeMap<String, Family>,
}

#[derive(Debug, Default)]
struct Family {
    help: &'static str,
    values: BTreeMap<String, f64>,
}

/// Labels of one time series, in their order.
pub(super) type Labels<'a> = Vec<(&'a str, String)>;

impl Exposition {
    /// Adds a value.
    pub(super) fn gauge(&mut self, name: &str, help: &'static str, labels: &Labels<'_>, value: f64) {
        let family = self.families.entry(name.to_owned()).or_default();
        family.help = help;
        family.values.insert(written(labels), value);
    }

    /// Writes everything.
    pub(super) fn write(&self, text: &mut String) {
        for (name, family) in &self.families {
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "# HELP {name} {}\n# TYPE {name} gauge", family.help);
            for (labels, value) in &family.values {
                let _infallible = writeln!(text, "{name}{{{labels}}} {value}");
            }
        }
    }
}

fn written(labels: &Labels<'_>) -> String {
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    pairs.join(",")
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_a_family_is_told_once_and_labels_are_escaped() {
        let mut all = Exposition::default();
        let labels = |value: &str| vec![("name", value.to_owned())];
        all.gauge("b", "Of b.", &labels("x\"\\\n"), 1.0);
        all.gauge("b", "Of b.", &labels("y"), 2.5);
        all.gauge("a", "Of a.", &labels("z"), 1e12);
        let mut text = String::new();
        all.write(&mut text);
        let expected = "# HELP a Of a.\n# TYPE a gauge\na{name=\"z\"} 1000000000000\n\
             # HELP b Of b.\n# TYPE b gauge\nb{name=\"x\\\"\\\\\\n\"} 1\nb{name=\"y\"} 2.5\n";
        assert_eq!(text, expected);
    }
}
