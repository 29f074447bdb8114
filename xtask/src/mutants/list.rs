//! The list of faults.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::suite::Check;

/// Where the faults are listed.
pub(crate) const LIST: &str = "verify/mutants.toml";

/// One fault.
#[derive(Debug)]
pub(crate) struct Mutant {
    pub(crate) name: String,
    /// From the workspace's root.
    pub(crate) file: String,
    /// The invariant that it breaks: `INV-6`.
    pub(crate) breaks: String,
    /// What it does, in words.
    pub(crate) fault: String,
    /// If `from` is in the file more than once: the first after this text is meant.
    after: Option<String>,
    from: String,
    to: String,
    /// Each of them must fail.
    pub(crate) caught_by: Vec<Check>,
    /// Whether it is in the short run.
    pub(crate) quick: bool,
}

#[derive(Deserialize)]
struct File {
    mutant: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    file: String,
    breaks: String,
    fault: String,
    after: Option<String>,
    from: String,
    to: String,
    caught_by: Vec<String>,
    #[serde(default)]
    quick: bool,
}

/// Reads the list.
///
/// # Errors
/// If it is not well formed, or names a check that does not exist.
pub(crate) fn read(root: &Path) -> Result<Vec<Mutant>, String> {
    let text = fs::read_to_string(root.join(LIST)).map_err(|e| format!("{LIST}: {e}"))?;
    parse(&text, root)
}

fn parse(text: &str, root: &Path) -> Result<Vec<Mutant>, String> {
    let file: File = toml::from_str(text).map_err(|e| format!("{LIST}: {e}"))?;
    file.mutant
        .into_iter()
        .map(|m| {
            let in_list = |e: String| format!("{LIST}, {}: {e}", m.name);
            if m.from.contains('\n') || m.to.contains('\n') {
                return Err(in_list("a fault is of one line".into()));
            }
            let checks = m.caught_by.iter().map(|check| Check::parse(check, root));
            Ok(Mutant {
                caught_by: checks.collect::<Result<_, _>>().map_err(in_list)?,
                name: m.name,
                file: m.file,
                breaks: m.breaks,
                fault: m.fault,
                after: m.after,
                from: m.from,
                to: m.to,
                quick: m.quick,
            })
        })
        .collect()
}

impl Mutant {
    /// The file's text without and with the fault.
    ///
    /// # Errors
    /// If the line is not there any more, or not the only one.
    pub(crate) fn applied(&self, root: &Path) -> Result<(String, String), String> {
        let text = fs::read_to_string(root.join(&self.file))
            .map_err(|e| format!("{}: {}: {e}", self.name, self.file))?;
        let at = self.position(&text)?;
        let mutated = format!("{}{}{}", &text[..at], self.to, &text[at + self.from.len()..]);
        Ok((text, mutated))
    }

    /// The line of the fault, from 1.
    ///
    /// # Errors
    /// As [`Mutant::applied`].
    pub(crate) fn line(&self, root: &Path) -> Result<usize, String> {
        let (text, _) = self.applied(root)?;
        Ok(text[..self.position(&text)?].matches('\n').count() + 1)
    }

    fn position(&self, text: &str) -> Result<usize, String> {
        let lost = |what: &str| {
            format!("{}: {} has no '{what}' any more; bring {LIST} up to date", self.name, self.file)
        };
        match &self.after {
            Some(after) => {
                let begin = text.find(after).ok_or_else(|| lost(after))? + after.len();
                Ok(begin + text[begin..].find(&self.from).ok_or_else(|| lost(&self.from))?)
            }
            None => match text.matches(&self.from).count() {
                1 => Ok(text.find(&self.from).expect("just found")),
                0 => Err(lost(&self.from)),
                n => Err(format!(
                    "{}: '{}' is in {} {n} times; say with `after` which one is meant",
                    self.name, self.from, self.file
                )),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::root;

    fn one(lines: &str) -> Result<Mutant, String> {
        let text = format!(
            "[[mutant]]\nname = 'm'\nfile = 'core/src/gate.rs'\nbreaks = 'INV-10'\nfault = 'x'\n{lines}\n"
        );
        parse(&text, &root()).map(|mut mutants| mutants.remove(0))
    }

    #[test]
    fn a_fault_that_does_not_fit_is_told() {
        let fails = |lines: &str, word: &str| {
            let error = one(lines).and_then(|m| m.applied(&root()).map(|_| ())).unwrap_err();
            assert!(error.contains(word), "{error}");
        };
        fails("from = 'no such line'\nto = ''\ncaught_by = []", "any more");
        fails("from = 'Ordering::Acquire'\nto = ''\ncaught_by = []", "times; say with `after`");
        fails("after = 'nowhere'\nfrom = 'a'\nto = ''\ncaught_by = []", "'nowhere' any more");
        fails("from = 'a'\nto = ''\ncaught_by = ['loom_gate::nothing']", "no test 'nothing'");
        fails("from = \"a\\nb\"\nto = ''\ncaught_by = []", "one line");
        fails("from = 'a'\nto = ''\ncaught_by = []\ncaught_bye = []", "caught_bye");
        let fits = one("from = 'store(CLOSED'\nto = 'store(OPEN'\ncaught_by = []").unwrap();
        let (before, after) = fits.applied(&root()).unwrap();
        assert_eq!(before.replace("store(CLOSED", "store(OPEN"), after);
    }
}
