//! Figures, their medians and spread, the ratios that must hold, as a table and as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

/// All runs of one figure.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct Figure {
    unit: &'static str,
    runs: Vec<f64>,
}

/// A ratio that must hold.
#[derive(Debug, Serialize)]
struct Goal {
    measure: String,
    ours: f64,
    against: String,
    ratio: f64,
    wanted: String,
    holds: bool,
}

/// What one run of the benchmark found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    versions: BTreeMap<String, String>,
    /// Who, then what.
    figures: BTreeMap<String, BTreeMap<String, Figure>>,
    goals: Vec<Goal>,
}

impl Figure {
    fn sorted(&self) -> Vec<f64> {
        let mut runs = self.runs.clone();
        runs.sort_by(f64::total_cmp);
        runs
    }

    fn median(&self) -> f64 {
        let runs = self.sorted();
        runs.get(runs.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

impl Report {
    pub(crate) fn version(&mut self, who: &str, version: String) {
        self.versions.insert(who.to_owned(), version);
    }

    /// Adds one run of a figure.
    pub(crate) fn add(&mut self, who: &str, what: &str, unit: &'static str, value: f64) {
        eprintln!("  {who:<12} {what:<44} {value:>12.4} {unit}");
        let figure = self.figures.entry(who.to_owned()).or_default().entry(what.to_owned()).or_default();
        figure.unit = unit;
        figure.runs.push(value);
    }

    /// Returns a figure's median, NaN where it was not measured.
    pub(crate) fn median(&self, who: &str, what: &str) -> f64 {
        self.figures.get(who).and_then(|f| f.get(what)).map_or(f64::NAN, Figure::median)
    }

    /// Returns a figure's highest run.
    pub(crate) fn highest(&self, who: &str, what: &str) -> f64 {
        self.figures
            .get(who)
            .and_then(|f| f.get(what))
            .map_or(f64::NAN, |f| f.runs.iter().copied().fold(f64::NAN, f64::max))
    }

    /// States that `ours` is at least `times` as fast (a time: smaller is better) as `other`.
    pub(crate) fn faster(&mut self, what: &str, ours: f64, against: &str, other: f64, times: f64) {
        let ratio = other / ours;
        self.goal(what, ours, against, ratio, format!(">= {times}"), ratio >= times);
    }

    /// States that `ours` is at most `times` `other`.
    pub(crate) fn at_most(&mut self, what: &str, ours: f64, against: &str, other: f64, times: f64) {
        let ratio = ours / other;
        self.goal(what, ours, against, ratio, format!("<= {times:.2}"), ratio <= times);
    }

    fn goal(&mut self, measure: &str, ours: f64, against: &str, ratio: f64, wanted: String, holds: bool) {
        self.goals.push(Goal { measure: measure.into(), ours, against: against.into(), ratio, wanted, holds });
    }

    /// Returns whether every goal that was measured holds.
    pub(crate) fn all_hold(&self) -> bool {
        self.goals.iter().all(|goal| goal.holds || goal.ratio.is_nan())
    }

    /// Prints versions, figures and ratios.
    pub(crate) fn print(&self) {
        println!("versions");
        for (who, version) in &self.versions {
            println!("  {who:<12} {version}");
        }
        println!("\n{:<12} {:<44} {:>12} {:>12} {:>12}  unit", "who", "figure", "median", "lowest", "highest");
        for (who, figures) in &self.figures {
            for (what, figure) in figures {
                let runs = figure.sorted();
                let (low, high) = (runs[0], runs[runs.len() - 1]);
                println!("{who:<12} {what:<44} {:>12.4} {low:>12.4} {high:>12.4}  {}", figure.median(), figure.unit);
            }
        }
        println!("\n{:<52} {:>10} {:>10} {:>10}  against", "measure", "ours", "ratio", "wanted");
        for goal in &self.goals {
            let verdict = match (goal.ratio.is_nan(), goal.holds) {
                (true, _) => "not measured",
                (false, true) => "holds",
                (false, false) => "FALLS SHORT",
            };
            println!(
                "{:<52} {:>10.4} {:>10.3} {:>10}  {} {verdict}",
                goal.measure, goal.ours, goal.ratio, goal.wanted, goal.against
            );
        }
    }
}
