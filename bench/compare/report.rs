//! The figures of all rounds: as a table, and as a plot.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use crate::{figures::Figures, server::Kind};

/// The values of one figure of one server in all rounds.
#[derive(Default)]
pub struct Report {
    /// In the order in which they came.
    rows: Vec<Row>,
}

struct Row {
    scenario: &'static str,
    figure: &'static str,
    unit: &'static str,
    values: BTreeMap<Kind, Vec<f64>>,
}

/// Median, least and greatest.
fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (
        sorted[sorted.len() / 2],
        sorted[0],
        sorted[sorted.len() - 1],
    )
}

fn short(value: f64) -> String {
    match value {
        v if v == v.trunc() && v < 1e6 => format!("{v:.0}"),
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

impl Report {
    pub fn add(&mut self, scenario: &'static str, kind: Kind, figures: Figures) {
        for (figure, unit, value) in figures {
            let row = self
                .rows
                .iter()
                .position(|row| (row.scenario, row.figure) == (scenario, figure));
            let row = row.unwrap_or_else(|| {
                self.rows.push(Row {
                    scenario,
                    figure,
                    unit,
                    values: BTreeMap::new(),
                });
                self.rows.len() - 1
            });
            self.rows[row].values.entry(kind).or_default().push(value);
        }
    }

    fn table(&self) -> String {
        let mut table = String::from(
            "| load | figure | this server | axum floor | the original |\n|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            let cell = |kind| {
                let Some(values) = row.values.get(&kind) else {
                    return String::new();
                };
                let (median, least, greatest) = spread(values);
                if short(least) == short(greatest) {
                    return short(median);
                }
                format!(
                    "{} ({} to {})",
                    short(median),
                    short(least),
                    short(greatest)
                )
            };
            let unit = if row.unit.is_empty() {
                String::new()
            } else {
                format!(", {}", row.unit)
            };
            let _ = writeln!(
                table,
                "| {} | {}{unit} | {} | {} | {} |",
                row.scenario,
                row.figure,
                cell(Kind::Ours),
                cell(Kind::Floor),
                cell(Kind::Original),
            );
        }
        table
    }

    pub fn print(&self) {
        print!("{}", self.table());
    }

    pub fn write(&self, folder: &str) {
        fs::create_dir_all(folder).expect("the folder of the results");
        fs::write(format!("{folder}/table.md"), self.table()).expect("the table");
        fs::write(format!("{folder}/plot.svg"), self.plot()).expect("the plot");
    }

    /// A bar for each server, for the figures that say most.
    fn plot(&self) -> String {
        const SHOWN: [(&str, &str); 6] = [
            ("relay, 64 pairs", "CPU per message"),
            ("relay, 512 pairs", "latency p99"),
            ("heartbeat, 64 connections", "CPU per request"),
            ("churn, 500 peers, 20/s", "CPU per operation"),
            ("park, 10,000 peers", "resident per peer"),
            ("park, 10,000 peers", "signed in and parked"),
        ];
        const ROW: usize = 22;
        const WIDTH: f64 = 380.0;
        let mut bars = String::new();
        let mut y = 10;
        for (scenario, figure) in SHOWN {
            let Some(row) = self
                .rows
                .iter()
                .find(|r| (r.scenario, r.figure) == (scenario, figure))
            else {
                continue;
            };
            y += ROW;
            let _ = writeln!(
                bars,
                r##"<text x="10" y="{y}" font-weight="bold">{scenario}: {figure}, {}</text>"##,
                row.unit
            );
            let medians = row
                .values
                .iter()
                .map(|(kind, values)| (kind, spread(values).0));
            let medians: Vec<(&Kind, f64)> = medians.collect();
            let longest = medians.iter().map(|(_, m)| *m).fold(0.0, f64::max);
            for (kind, median) in medians {
                let (name, colour) = match kind {
                    Kind::Ours => ("this server", "#2b7a5d"),
                    Kind::Floor => ("axum floor", "#9aa5b1"),
                    Kind::Original => ("the original", "#c7783c"),
                };
                let length = (WIDTH * median / longest).max(1.0);
                let (top, end) = (y + 6, 120.0 + length + 6.0);
                y += ROW;
                let _ = writeln!(
                    bars,
                    r##"<text x="10" y="{y}">{name}</text><rect x="110" y="{top}" width="{length:.0}" height="16" fill="{colour}"/><text x="{end:.0}" y="{y}">{}</text>"##,
                    short(median)
                );
            }
            y += ROW / 2;
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"620\" height=\"{}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{bars}</svg>\n",
            y + ROW
        )
    }
}
