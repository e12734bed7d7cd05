//! What was measured, as a table for docs/benchmarks.md.

use std::fs;

use crate::contestant::Contestant;
use crate::round::Round;

pub(crate) const HEAD: &str = "\
| claims | who | Bound p50, ms | p95, ms | longest, ms | claims/s | volumes gone/s | CPU s per 1000 | peak MiB |
|---:|---|---:|---:|---:|---:|---:|---:|---:|";

/// The machine, in a line.
pub(crate) fn machine() -> String {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kibibytes: f64 =
        field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or_default();
    let (cpu, kernel) = (field(&read("/proc/cpuinfo"), "model name"), read("/proc/sys/kernel/osrelease"));
    format!("{cores} cores ({cpu}), {:.0} GiB, Linux {}", kibibytes / 1024.0 / 1024.0, kernel.trim())
}

/// The median over the pairs, the least and the most.
#[derive(Debug, Clone, Copy)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (middle, even) = (values.len() / 2, values.len().is_multiple_of(2));
        let median = if even { f64::midpoint(values[middle - 1], values[middle]) } else { values[middle] };
        Self { median, least: values[0], most: values[values.len() - 1] }
    }
}

type Figure = (usize, fn(&Round) -> f64);

/// What is told of each round: with how many decimals, and what.
const FIGURES: [Figure; 7] = [
    (0, |round| quantile(&round.bound, 0.5)),
    (0, |round| quantile(&round.bound, 0.95)),
    (0, |round| quantile(&round.bound, 1.0)),
    (1, |round| round.bound_rate),
    (1, |round| round.gone_rate),
    (2, |round| round.cpu),
    (1, |round| round.memory),
];

fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list")]
    let place = (share * sorted.len() as f64).ceil() as usize;
    sorted[place.clamp(1, sorted.len()) - 1]
}

/// The rows of one number of claims: the figures of each contestant, then how each compares to the null provisioner
/// that ran next to it.
pub(crate) fn rows(claims: usize, contestants: &[Contestant], rounds: &[Vec<Round>]) -> String {
    let mut rows = Vec::new();
    for (contestant, rounds) in contestants.iter().zip(rounds) {
        let cells = FIGURES.map(|(decimals, figure)| {
            let Spread { median, least, most } = Spread::of(rounds.iter().map(figure));
            format!("**{median:.decimals$}** ({least:.decimals$}–{most:.decimals$})")
        });
        rows.push(format!("| {claims} | {} | {} |", contestant.name(), cells.join(" | ")));
    }
    for (contestant, rows_of) in contestants.iter().zip(rounds).skip(1) {
        let cells = FIGURES.map(|(_, figure)| {
            let ratios = rows_of.iter().zip(&rounds[0]).map(|(one, null)| figure(one) / figure(null));
            let Spread { median, least, most } = Spread::of(ratios);
            format!("**{median:.2}** ({least:.2}–{most:.2})")
        });
        rows.push(format!("| {claims} | {} ÷ null | {} |", contestant.name(), cells.join(" | ")));
    }
    rows.join("\n")
}
