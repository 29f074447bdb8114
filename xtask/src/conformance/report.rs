//! The tables and the judgement.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use streampool_core::{Error, Result};

use super::{Case, Floor, Kind, Verdict};

/// Every case with its verdict and the peer's.
pub(super) struct Report<'a> {
    rows: Vec<Row<'a>>,
    has_peer: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    operator: &'a str,
    in_scope: bool,
    #[serde(flatten)]
    verdict: &'a Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_passed: Option<bool>,
}

/// Counts by verdict.
#[derive(Default, Clone, Serialize)]
struct Tally {
    cases: usize,
    passed: usize,
    wrong: usize,
    error: usize,
    refused: usize,
    random: usize,
    rounding: usize,
    crashed: usize,
    hung: usize,
    peer_passed: usize,
}

impl Tally {
    fn of<'a>(rows: impl IntoIterator<Item = &'a Row<'a>>) -> Self {
        let mut t = Self::default();
        for row in rows {
            t.cases += 1;
            t.peer_passed += usize::from(row.peer_passed == Some(true));
            *match row.verdict.verdict {
                Kind::Passed => &mut t.passed,
                Kind::Wrong => &mut t.wrong,
                Kind::Error => &mut t.error,
                Kind::Refused => &mut t.refused,
                Kind::Random => &mut t.random,
                Kind::Rounding => &mut t.rounding,
                Kind::Crashed => &mut t.crashed,
                Kind::Hung => &mut t.hung,
            } += 1;
        }
        t
    }

    fn line(&self, label: &str, has_peer: bool) -> String {
        let n = |v: usize| if v == 0 { "-".to_owned() } else { v.to_string() };
        let mut out = format!(
            "{label:28} {:>6} {:>7} {:>6} {:>6} {:>8} {:>7} {:>8} {:>8} {:>5}",
            self.cases,
            n(self.passed),
            n(self.wrong),
            n(self.error),
            n(self.refused),
            n(self.random),
            n(self.rounding),
            n(self.crashed),
            n(self.hung)
        );
        if has_peer {
            out += &format!(" {:>12}", n(self.peer_passed));
        }
        out
    }
}

impl<'a> Report<'a> {
    pub(super) fn new(
        cases: &'a [Case],
        verdicts: &'a [Verdict],
        peer: Option<&BTreeMap<String, String>>,
    ) -> Self {
        let rows = cases
            .iter()
            .zip(verdicts)
            .map(|(case, verdict)| Row {
                name: &case.name,
                operator: &case.operator,
                in_scope: case.in_scope,
                verdict,
                peer_passed: peer.map(|p| p.get(&case.name).is_some_and(|v| v == "passed")),
            })
            .collect();
        Self { rows, has_peer: peer.is_some() }
    }

    pub(super) fn print(&self, list: Option<Kind>) {
        let mut by_operator: BTreeMap<&str, Vec<&Row<'_>>> = BTreeMap::new();
        for row in &self.rows {
            by_operator.entry(row.operator).or_default().push(row);
        }
        let mut head = format!(
            "{:28} {:>6} {:>7} {:>6} {:>6} {:>8} {:>7} {:>8} {:>8} {:>5}",
            "operator",
            "cases",
            "passed",
            "wrong",
            "error",
            "refused",
            "random",
            "rounding",
            "crashed",
            "hung"
        );
        if self.has_peer {
            head += &format!(" {:>12}", "ONNX Runtime");
        }
        println!("{head}");
        for (operator, rows) in &by_operator {
            println!("{}", Tally::of(rows.iter().copied()).line(operator, self.has_peer));
        }
        println!("{}", "-".repeat(head.len()));
        println!("{}", Tally::of(&self.rows).line("all", self.has_peer));
        let scope = Tally::of(self.rows.iter().filter(|r| r.in_scope));
        println!("{}", scope.line("f32 f16 i64 bool i32 u8 i8", self.has_peer));
        for row in &self.rows {
            let kind = row.verdict.verdict;
            let always =
                matches!(kind, Kind::Wrong | Kind::Rounding | Kind::Error | Kind::Crashed | Kind::Hung);
            if always || list == Some(kind) {
                println!("{}: {}: {}", format!("{kind:?}").to_lowercase(), row.name, row.verdict.reason);
            }
        }
    }

    pub(super) fn write_json(&self, path: &Path) -> Result<()> {
        #[derive(Serialize)]
        struct All<'a> {
            all: Tally,
            in_scope: Tally,
            cases: &'a [Row<'a>],
        }
        let all = All {
            all: Tally::of(&self.rows),
            in_scope: Tally::of(self.rows.iter().filter(|r| r.in_scope)),
            cases: &self.rows,
        };
        let mut text = serde_json::to_string_pretty(&all).expect("plain data");
        text.push('\n');
        if path == Path::new("-") {
            print!("{text}");
            return Ok(());
        }
        std::fs::write(path, text).map_err(|e| Error::io(format!("{}: {e}", path.display())))
    }

    /// Whether the promise holds: nothing crashed, hung or was silently wrong, and as many passed as must.
    pub(super) fn judge(&self, floor: Option<&Floor>) -> bool {
        let all = Tally::of(&self.rows);
        let scope = Tally::of(self.rows.iter().filter(|r| r.in_scope));
        let mut good = all.wrong + all.crashed + all.hung == 0;
        if !good {
            println!("FAILED: {} wrong, {} crashed, {} hung; none may", all.wrong, all.crashed, all.hung);
        }
        if let Some(floor) = floor {
            for (label, got, least) in
                [("all", all.passed, floor.all), ("in_scope", scope.passed, floor.in_scope)]
            {
                if got < least {
                    println!("FAILED: {got} cases pass ({label}), at least {least} did before");
                    good = false;
                } else if got > least {
                    println!("{got} cases pass ({label}), the recorded floor is {least}: raise it");
                }
            }
        }
        good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(kinds: &[Kind], floor: usize) -> bool {
        let verdicts: Vec<_> =
            kinds.iter().map(|&verdict| Verdict { verdict, reason: String::new(), close: false }).collect();
        let case = Case {
            name: "c".into(),
            operator: "Op".into(),
            inputs: vec![],
            outputs: vec![],
            in_scope: true,
            storable: true,
            random: false,
            data_sets: 1,
            rtol: 1e-3,
            atol: 1e-7,
        };
        let cases = vec![case; kinds.len()];
        Report::new(&cases, &verdicts, None).judge(Some(&Floor {
            all: floor,
            in_scope: floor,
            rounding: BTreeMap::new(),
        }))
    }

    #[test]
    fn one_crash_hang_or_wrong_answer_fails_the_run() {
        assert!(judged(&[Kind::Passed, Kind::Refused, Kind::Random], 1));
        for kind in [Kind::Wrong, Kind::Crashed, Kind::Hung] {
            assert!(!judged(&[Kind::Passed, kind], 1), "{kind:?}");
        }
    }

    #[test]
    fn falling_below_the_floor_fails_the_run() {
        assert!(judged(&[Kind::Passed, Kind::Passed], 2));
        assert!(!judged(&[Kind::Passed, Kind::Refused], 2));
    }
}
