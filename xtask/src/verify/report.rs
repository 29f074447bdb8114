//! The report: rows, and how they are written.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

/// How a row ended. A row that could not run is never called passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Passed,
    Failed,
    NotRun,
}

impl Status {
    /// As other programs of this project write it in their JSON.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.to_lowercase().replace(['_', '-'], " ").as_str() {
            "passed" | "pass" | "ok" => Some(Self::Passed),
            "failed" | "fail" | "error" => Some(Self::Failed),
            "not run" | "skipped" => Some(Self::NotRun),
            _ => None,
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Passed => "PASS",
            Self::Failed => "FAIL",
            Self::NotRun => "not run",
        }
    }
}

/// One row of one section.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) section: char,
    pub(crate) name: String,
    pub(crate) status: Status,
    /// What was counted or measured; of a row that did not run: why, and how to get it.
    pub(crate) figure: String,
    /// What a person needs to see of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
    pub(crate) seconds: f64,
}

impl Row {
    pub(crate) fn new(
        section: char,
        name: impl Into<String>,
        status: Status,
        figure: impl Into<String>,
    ) -> Self {
        Self { section, name: name.into(), status, figure: figure.into(), detail: None, seconds: 0.0 }
    }

    pub(crate) fn took(mut self, seconds: f64) -> Self {
        self.seconds = seconds;
        self
    }

    pub(crate) fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

/// A file that the report speaks of.
#[derive(Debug, Serialize)]
pub(crate) struct Artifact {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

impl Artifact {
    /// None if there is no such file.
    pub(crate) fn of(root: &Path, name: &str) -> Option<Self> {
        let mut file = File::open(root.join(name)).ok()?;
        let (mut digest, mut buffer, mut bytes) = (Sha256::new(), vec![0; 1 << 16], 0);
        loop {
            match file.read(&mut buffer).ok()? {
                0 => break,
                n => {
                    digest.update(&buffer[..n]);
                    bytes += n as u64;
                }
            }
        }
        let sha256 = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Self { name: name.to_owned(), bytes, sha256 })
    }
}

/// Everything.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) date: String,
    pub(crate) mode: &'static str,
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) not_run: usize,
    pub(crate) seconds: f64,
    pub(crate) commit: String,
    pub(crate) machine: Vec<(String, String)>,
    pub(crate) versions: Vec<(String, String)>,
    pub(crate) rows: Vec<Row>,
    /// The table of `cargo xtask mutants`, if it ran.
    #[serde(skip)]
    pub(crate) mutants: Option<String>,
    /// The table of the benchmark, if it ran.
    #[serde(skip)]
    pub(crate) benchmark: Option<String>,
    pub(crate) artifacts: Vec<Artifact>,
}

/// Sections in order, and what they are called.
pub(crate) const SECTIONS: [(char, &str); 4] = [
    ('A', "Scenarios, through the Python package"),
    ('B', "Race and memory errors: the library and its standard library instrumented"),
    ('C', "Model checking of the shipped code"),
    ('D', "Efficiency benchmark"),
];

impl Report {
    pub(crate) fn count(&mut self) {
        let of = |status| self.rows.iter().filter(|row| row.status == status).count();
        (self.passed, self.failed, self.not_run) =
            (of(Status::Passed), of(Status::Failed), of(Status::NotRun));
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = format!(
            "# Verification report\n\n**Date**: {}\n**Commit**: {}\n**Run**: {}, {:.0} s\n",
            self.date, self.commit, self.mode, self.seconds
        );
        for (name, value) in self.machine.iter().chain(&self.versions) {
            text += &format!("**{name}**: {value}\n");
        }
        // Two spaces at the end of a line keep it a line of its own.
        text = text.replace("\n**", "  \n**").replacen("  \n**", "\n**", 1);
        text += &format!(
            "\n## Summary\n\n{} passed, {} failed, {} not run. A row that could not run here says why and counts as not run.\n\n## Results\n",
            self.passed, self.failed, self.not_run
        );
        for (section, title) in SECTIONS {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.section == section).collect();
            let of = |status| rows.iter().filter(|row| row.status == status).count();
            let mut counts = format!("{}/{} passed", of(Status::Passed), rows.len());
            for (status, word) in [(Status::Failed, "failed"), (Status::NotRun, "not run")] {
                if of(status) > 0 {
                    counts += &format!(", {} {word}", of(status));
                }
            }
            text += &format!(
                "\n### {section}. {title} ({counts})\n\n| row | result | figure | s |\n|---|---|---|---|\n"
            );
            for row in &rows {
                let figure = row.figure.replace('|', "\\|").replace('\n', " ");
                text +=
                    &format!("| {} | {} | {figure} | {:.1} |\n", row.name, row.status.word(), row.seconds);
            }
            let tables = match section {
                'C' => self
                    .mutants
                    .as_ref()
                    .map(|t| format!("\n#### Mutants: each fault and the checks that catch it\n\n{t}")),
                'D' => self.benchmark.as_ref().map(|t| format!("\n{t}")),
                _ => None,
            };
            text += &tables.unwrap_or_default();
            for row in rows {
                if let Some(detail) = &row.detail {
                    text += &format!(
                        "\n**{}**\n\n```text\n{}\n```\n",
                        row.name,
                        detail.trim_end().replace("```", "'''")
                    );
                }
            }
        }
        text += "\n## Artifacts\n\n| file | bytes | SHA-256 |\n|---|---|---|\n";
        for artifact in &self.artifacts {
            text += &format!("| {} | {} | `{}` |\n", artifact.name, artifact.bytes, artifact.sha256);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_every_row_and_counts_what_did_not_run() {
        let mut report = Report {
            date: "today".into(),
            mode: "quick",
            passed: 0,
            failed: 0,
            not_run: 0,
            seconds: 1.0,
            commit: "abc".into(),
            machine: vec![("System".into(), "x".into())],
            versions: vec![],
            rows: vec![
                Row::new('A', "Fork", Status::NotRun, "no package | yet"),
                Row::new('B', "tsan", Status::Passed, "0 reports"),
                Row::new('C', "timeline", Status::Failed, "1 failed").with_detail("why").took(2.0),
            ],
            mutants: Some("MUTANTS".into()),
            benchmark: None,
            artifacts: vec![],
        };
        report.count();
        assert_eq!((report.passed, report.failed, report.not_run), (1, 1, 1));
        let text = report.markdown();
        for part in [
            "**Commit**: abc",
            "1 passed, 1 failed, 1 not run",
            "| Fork | not run | no package \\| yet |",
            "| tsan | PASS | 0 reports |",
            "| timeline | FAIL | 1 failed | 2.0 |",
            "why",
            "MUTANTS",
            "(0/1 passed, 1 not run)",
            "### D. ",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert!(!text.contains("| Fork | PASS"));
    }

    #[test]
    fn a_checksum_is_that_of_the_file() {
        let folder = std::env::temp_dir();
        let name = format!("streampool-sha-{}", std::process::id());
        std::fs::write(folder.join(&name), "abc").unwrap();
        let artifact = Artifact::of(&folder, &name).unwrap();
        // FIPS 180-2, appendix B.1.
        assert_eq!(artifact.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(artifact.bytes, 3);
        std::fs::remove_file(folder.join(&name)).unwrap();
        assert!(Artifact::of(&folder, "no such file").is_none());
    }
}
