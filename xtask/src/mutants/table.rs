//! What came of each fault, and the table of it.

use serde::Serialize;

use super::Mutant;
use crate::suite::Check;

/// What came of one fault.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// `FILE:LINE`
    pub(crate) place: String,
    pub(crate) breaks: String,
    pub(crate) fault: String,
    /// The checks that were run, and how each noticed the fault if it did.
    pub(crate) checks: Vec<(String, Option<String>)>,
    /// Why it could not be tried.
    pub(crate) broken: Option<String>,
    /// Whether it was tried and every check noticed it.
    pub(crate) caught: bool,
    pub(crate) seconds: f64,
}

impl Row {
    pub(super) fn new(mutant: &Mutant, line: usize) -> Self {
        Self {
            name: mutant.name.clone(),
            place: format!("{}:{line}", mutant.file),
            breaks: mutant.breaks.clone(),
            fault: mutant.fault.clone(),
            checks: Vec::new(),
            broken: None,
            caught: false,
            seconds: 0.0,
        }
    }

    pub(super) fn add(&mut self, check: &Check, noticed: Option<&str>) {
        self.checks.push((check.to_string(), noticed.map(str::to_owned)));
    }

    pub(super) fn broken(&mut self, why: &str) {
        self.broken.get_or_insert_with(|| why.to_owned());
    }

    pub(super) fn settle(&mut self) {
        self.caught = self.broken.is_none()
            && !self.checks.is_empty()
            && self.checks.iter().all(|(_, noticed)| noticed.is_some());
    }

    /// In words.
    pub(crate) fn verdict(&self) -> String {
        if let Some(why) = &self.broken {
            return format!("does not build: {}", why.lines().find(|l| l.contains("error")).unwrap_or(why));
        }
        let missed: Vec<_> = self
            .checks
            .iter()
            .filter(|(_, noticed)| noticed.is_none())
            .map(|(check, _)| check.as_str())
            .collect();
        match (self.checks.is_empty(), missed.is_empty()) {
            (true, _) => "NO CHECK".into(),
            (_, false) => format!("MISSED by {}", missed.join(", ")),
            _ => "caught".into(),
        }
    }
}

/// The table.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text = String::from("| mutant | breaks | line | fault | caught by |\n|---|---|---|---|---|\n");
    for row in rows {
        let how: Vec<String> = row
            .checks
            .iter()
            .map(|(check, noticed)| match noticed {
                Some(how) if how == "fails" => check.clone(),
                Some(how) => format!("{check} ({how})"),
                None => format!("**missed by {check}**"),
            })
            .collect();
        let how = if row.caught || row.broken.is_none() && !how.is_empty() {
            how.join("<br>")
        } else {
            row.verdict()
        };
        let fault = row.fault.replace('|', "\\|");
        text += &format!("| {} | {} | {} | {fault} | {how} |\n", row.name, row.breaks, row.place);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(checks: &[(&str, Option<&str>)], broken: Option<&str>) -> Row {
        let checks = checks.iter().map(|(c, n)| ((*c).to_owned(), n.map(str::to_owned))).collect();
        let mut row = Row {
            name: "m".into(),
            place: "f:1".into(),
            breaks: "INV-1".into(),
            fault: "a | b".into(),
            checks,
            broken: broken.map(str::to_owned),
            caught: false,
            seconds: 0.0,
        };
        row.settle();
        row
    }

    #[test]
    fn only_what_every_check_noticed_is_caught() {
        assert!(row(&[("a", Some("fails")), ("b", Some("hangs"))], None).caught);
        let missed = row(&[("a", Some("fails")), ("b", None)], None);
        assert!(!missed.caught && missed.verdict() == "MISSED by b");
        assert!(!row(&[], None).caught);
        let broken = row(&[("a", Some("fails"))], Some("warning\nerror[E1]: no"));
        assert!(!broken.caught && broken.verdict() == "does not build: error[E1]: no");
        let text = markdown(&[row(&[("a", Some("fails")), ("b", Some("hangs"))], None), missed, broken]);
        assert!(
            text.contains("a<br>b (hangs)") && text.contains("**missed by b**") && text.contains("a \\| b")
        );
        assert!(text.contains("does not build"));
    }
}
