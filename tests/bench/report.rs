//! What was measured, and how it is shown.
//!
//! Every part of the benchmark adds single samples; medians, tables, ratios
//! and JSON are made of them here.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// What a sample belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The name it is selected by: `loss`, `tcp`, ...
    pub part: &'static str,
    /// The circumstances: "LAN to host, 10000/s".
    pub case: String,
    /// Who did it: "vmbr", "ip script", ...
    pub contestant: &'static str,
    /// What was measured, with its unit: "lost up v4", "ms".
    pub metric: &'static str,
}

struct Figure {
    key: Key,
    samples: Vec<f64>,
}

impl Figure {
    fn median(&self) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            (sorted[middle - 1] + sorted[middle]) / 2.0
        }
    }

    fn worst(&self) -> f64 {
        self.samples.iter().copied().fold(f64::MIN, f64::max)
    }
}

/// How a figure compares, and what the project wants to reach.
struct Comparison {
    key: Key,
    against: &'static str,
    /// The ratio of the medians, or, against "nothing lost", the worst sample.
    value: f64,
    reach: f64,
}

/// In place of a contestant: the median is held against a figure.
const MEDIAN: &str = "(median)";

/// All samples of one run of the benchmark, in the order they were added.
#[derive(Default)]
pub struct Report {
    figures: Vec<Figure>,
    comparisons: Vec<Comparison>,
    remarks: Vec<String>,
}

impl Report {
    /// Adds one sample.
    pub fn add(&mut self, key: Key, value: f64) {
        match self.figures.iter_mut().find(|figure| figure.key == key) {
            Some(figure) => figure.samples.push(value),
            None => self.figures.push(Figure {
                key,
                samples: vec![value],
            }),
        }
    }

    /// Adds a sentence that belongs under the tables.
    pub fn remark(&mut self, sentence: impl Into<String>) {
        self.remarks.push(sentence.into());
    }

    /// Compares `key`'s median with that of the contestant `against`; `reach`
    /// is the largest ratio that the project is content with. Says nothing
    /// where either was not measured.
    pub fn compare(&mut self, key: Key, against: &'static str, reach: f64) {
        let other = Key {
            contestant: against,
            ..key.clone()
        };
        if let (Some(ours), Some(theirs)) = (self.figure(&key), self.figure(&other)) {
            let value = ours.median() / theirs.median();
            self.comparisons.push(Comparison {
                key,
                against,
                value,
                reach,
            });
        }
    }

    /// Holds the worst sample of `key` against an absolute figure.
    pub fn at_most(&mut self, key: Key, reach: f64) {
        if let Some(figure) = self.figure(&key) {
            let value = figure.worst();
            self.comparisons.push(Comparison {
                key,
                against: "",
                value,
                reach,
            });
        }
    }

    /// Holds the median of `key` against an absolute figure.
    pub fn median_at_most(&mut self, key: Key, reach: f64) {
        if let Some(figure) = self.figure(&key) {
            let value = figure.median();
            self.comparisons.push(Comparison {
                key,
                against: MEDIAN,
                value,
                reach,
            });
        }
    }

    fn figure(&self, key: &Key) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.key == *key)
    }

    /// The report as tables for people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut titles: Vec<(&str, &str)> = Vec::new();
        for figure in &self.figures {
            let title = (figure.key.part, figure.key.case.as_str());
            if !titles.contains(&title) {
                titles.push(title);
            }
        }
        for title in titles {
            text.push_str(&self.table(title));
        }
        if !self.comparisons.is_empty() {
            text.push_str("\nvmbr against the others\n");
            let rows = self.comparisons.iter().map(Comparison::cells).collect();
            text.push_str(&align(vec!["what", "against", "got", "reach", ""], rows));
        }
        for remark in &self.remarks {
            text.push_str(&format!("\n{remark}\n"));
        }
        text
    }

    /// One table: a line a contestant, a column a metric.
    fn table(&self, title: (&str, &str)) -> String {
        let figures: Vec<&Figure> = self
            .figures
            .iter()
            .filter(|f| (f.key.part, f.key.case.as_str()) == title)
            .collect();
        let mut metrics = Vec::new();
        let mut rows: Vec<(&str, BTreeMap<&str, String>)> = Vec::new();
        for figure in &figures {
            if !metrics.contains(&figure.key.metric) {
                metrics.push(figure.key.metric);
            }
            let at = rows
                .iter()
                .position(|(name, _)| *name == figure.key.contestant)
                .unwrap_or_else(|| {
                    rows.push((figure.key.contestant, BTreeMap::new()));
                    rows.len() - 1
                });
            let cell = match figure.samples.len() {
                1 => short(figure.median()),
                _ => format!("{} ({})", short(figure.median()), short(figure.worst())),
            };
            rows[at].1.insert(figure.key.metric, cell);
        }
        let runs = figures
            .iter()
            .map(|figure| figure.samples.len())
            .max()
            .unwrap_or(0);
        let lines = rows
            .into_iter()
            .map(|(name, mut cells)| {
                let values = metrics
                    .iter()
                    .map(|metric| cells.remove(metric).unwrap_or_else(|| "-".into()));
                std::iter::once(name.to_owned()).chain(values).collect()
            })
            .collect();
        let note = if runs > 1 {
            format!("median (worst) of {runs}")
        } else {
            "one run".into()
        };
        let heading = std::iter::once("").chain(metrics.iter().copied()).collect();
        format!("\n{}: {} - {note}\n{}", title.0, title.1, align(heading, lines))
    }

    /// The report as one JSON document.
    pub fn to_json(&self, runs: usize) -> Value {
        let figures: Vec<Value> = self
            .figures
            .iter()
            .map(|figure| {
                json!({
                    "part": figure.key.part, "case": figure.key.case,
                    "contestant": figure.key.contestant, "metric": figure.key.metric,
                    "median": figure.median(), "worst": figure.worst(), "samples": figure.samples,
                })
            })
            .collect();
        let comparisons: Vec<Value> = self
            .comparisons
            .iter()
            .map(|c| {
                json!({
                    "part": c.key.part, "case": c.key.case, "metric": c.key.metric,
                    "contestant": c.key.contestant, "against": c.against,
                    "value": c.value, "reach": c.reach, "reached": c.reached(),
                })
            })
            .collect();
        json!({
            "format": 1, "runs": runs, "figures": figures,
            "comparisons": comparisons, "remarks": self.remarks,
        })
    }
}

impl Comparison {
    fn reached(&self) -> bool {
        self.value <= self.reach
    }

    fn cells(&self) -> Vec<String> {
        vec![
            format!("{}: {}, {}", self.key.part, self.key.case, self.key.metric),
            if self.against.is_empty() {
                "(worst run)".into()
            } else {
                self.against.into()
            },
            short(self.value),
            short(self.reach),
            if self.reached() {
                "reached".into()
            } else {
                "MISSED".into()
            },
        ]
    }
}

/// Three significant digits, as far as they are behind the point.
fn short(value: f64) -> String {
    match value {
        v if v == v.trunc() => format!("{v:.0}"),
        v if v.abs() >= 100.0 => format!("{v:.0}"),
        v if v.abs() >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

fn align(heading: Vec<&str>, rows: Vec<Vec<String>>) -> String {
    let heading: Vec<String> = heading.into_iter().map(str::to_owned).collect();
    let width = |column: usize| {
        rows.iter()
            .chain([&heading])
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let mut text = String::new();
    for row in std::iter::once(&heading).chain(&rows) {
        let cells: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(column, cell)| {
                let width = width(column).unwrap_or(0);
                if column == 0 {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            })
            .collect();
        text.push_str(&format!("  {}\n", cells.join("  ").trim_end()));
    }
    text
}
