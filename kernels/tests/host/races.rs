//! Whether kernels wait where they must, and only there: each statement that waits is left out once.
//!
//! ThreadSanitizer knows every thread of a block as a thread of its own (`prelude/races.h`) and reports what no barrier separates. That the kernels as
//! they are give no report is what all other tests show when they run under it; here it must find each fault that is planted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, c_char};
use std::path::Path;

use streampool_conformance::{Case, Cases};
use streampool_core::op::{HostTensor, Op};
use streampool_kernels::{Dialect, Kernel};

use crate::library::Library;
use crate::run::kernels;
use crate::{attended, products};

/// What waits. What a thread says to others without waiting is no use to leave out: they would wait for ever.
const WAITS: [&str; 4] = ["BARRIER();", "CLUSTER_WAIT();", "INBOX_WAIT();", "COPIES_WAIT("];

/// Bytes of data and blocks of the largest fused kernels: what races everywhere takes long to report.
const LARGEST: (usize, u64) = (600 << 10, 24);

/// A kernel without one of its waits.
struct Without {
    kernel: Kernel,
    text: String,
    what: String,
}

/// `kernel` without each of its waits in turn.
fn without(kernel: &Kernel) -> Vec<Without> {
    let text = kernel.source(Dialect::Host);
    let mut at: Vec<(usize, &str)> = WAITS.iter().flat_map(|wait| text.match_indices(wait)).collect();
    at.sort_unstable();
    let of = at.len();
    let list = at.into_iter().enumerate().map(|(n, (at, wait))| {
        let end = at + text[at..].find(';').expect("a statement ends") + 1;
        let name = format!("{}_without_{n}", kernel.name);
        let mut changed = kernel.clone();
        changed.name.clone_from(&name);
        Without {
            text: format!("{}{}", &text[..at], &text[end..]).replace(&kernel.name, &name),
            what: format!(
                "{}: {} number {} of {of}",
                kernel.what,
                wait.trim_end_matches(['(', ')', ';']),
                n + 1
            ),
            kernel: changed,
        }
    });
    list.collect()
}

/// Where ThreadSanitizer reports.
struct Reports {
    path: String,
    bytes: u64,
}

impl Reports {
    /// Panics if this program does not run under ThreadSanitizer.
    fn new() -> Self {
        // SAFETY: the program itself, which lives as long as it runs.
        let this = libloading::os::unix::Library::this();
        // SAFETY: the function has this type (sanitizer/common_interface_defs.h).
        let found =
            unsafe { this.get::<unsafe extern "C" fn(*const c_char)>(b"__sanitizer_set_report_path") };
        let set = found.expect("ThreadSanitizer is loaded: scripts/kernel-sanitizers does that");
        let folder = std::env::temp_dir().join(format!("streampool-races-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for reports");
        let path = folder.join("report").display().to_string();
        let to = CString::new(path.clone()).expect("no zeros");
        // SAFETY: the text ends with a zero; the sanitizer copies it.
        unsafe { set(to.as_ptr()) };
        Self { path: format!("{path}.{}", std::process::id()), bytes: 0 }
    }

    /// Whether there is a new one.
    fn new_one(&mut self) -> bool {
        let bytes = std::fs::metadata(&self.path).map_or(0, |m| m.len());
        std::mem::replace(&mut self.bytes, bytes) < bytes
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = Path::new(&self.path).parent().map(std::fs::remove_dir);
    }
}

/// Of each kind of kernel that waits the case with most data: where there is little, not every wait matters. Linear algebra is left out: what its columns
/// and rotations wait for depends on the matrix.
fn one_of_each_kind() -> Vec<(Case, Vec<Kernel>)> {
    let mut cases = Cases::new(1);
    cases.all();
    cases.list.retain(|case| !matches!(case.op, Op::Linalg(_)));
    cases.list.sort_by_key(|case| Reverse(case.data.iter().map(|t| t.bytes().len()).sum::<usize>()));
    let mut seen = BTreeSet::new();
    let waits = |k: &Kernel| WAITS.iter().any(|wait| k.source(Dialect::Host).contains(wait));
    let kind = |k: &Kernel| k.what.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    let listed = cases.list.into_iter().map(|case| {
        let list = kernels(&case);
        (case, list)
    });
    listed.filter(|(_, list)| list.iter().filter(|k| waits(k)).any(|k| seen.insert(kind(k)))).collect()
}

/// What became of the kernels that do not wait.
#[derive(Default)]
struct Noticed {
    races: usize,
    failures: usize,
    wrong: usize,
    unnoticed: Vec<String>,
}

impl Noticed {
    fn note(&mut self, without: &Without, reported: bool, complained: bool, same: bool) {
        match (reported, complained, same) {
            (true, ..) => self.races += 1,
            (_, true, _) => self.failures += 1,
            (_, _, false) => self.wrong += 1,
            _ => self.unnoticed.push(without.what.clone()),
        }
    }

    fn judge(self, least: usize) {
        let Self { races, failures, wrong, unnoticed } = self;
        let all = races + failures + wrong + unnoticed.len();
        println!(
            "{all} waits left out: {races} races, {failures} failures, {wrong} wrong results, {} unnoticed",
            unnoticed.len()
        );
        assert!(races >= least, "races are not reported");
        assert!(unnoticed.is_empty(), "not noticed:\n{}", unnoticed.join("\n"));
    }
}

/// Compiles `kernels` and those without a wait.
fn library<'a>(
    kernels: impl Iterator<Item = &'a Kernel>,
    without: impl Iterator<Item = &'a Without>,
) -> Library {
    let whole = kernels.map(|k| (k.name.clone(), k.source(Dialect::Host)));
    let all: BTreeMap<String, String> =
        whole.chain(without.map(|w| (w.kernel.name.clone(), w.text.clone()))).collect();
    Library::of_text(&all.into_values().collect::<String>())
}

#[test]
#[ignore = "needs ThreadSanitizer: scripts/kernel-sanitizers runs it"]
fn a_fused_kernel_that_does_not_wait_is_noticed() {
    let mut reports = Reports::new();
    let cases: Vec<products::Case> = products::cases().into_iter().chain(attended::cases()).collect();
    let kernels: Vec<(&products::Case, &Kernel, Vec<Without>)> = cases
        .iter()
        .filter(|case| case.data.iter().map(|t| t.bytes().len()).sum::<usize>() <= LARGEST.0)
        .flat_map(|case| [Some(&case.kernel), case.quick.as_ref()].map(|k| (case, k)))
        .filter_map(|(case, kernel)| kernel.filter(|k| k.grid <= LARGEST.1).map(|k| (case, k, without(k))))
        .collect();
    let library = library(kernels.iter().map(|c| c.1), kernels.iter().flat_map(|c| &c.2));
    let mut noticed = Noticed::default();
    for (case, kernel, list) in &kernels {
        let run = |kernel: &Kernel| {
            let mut output = HostTensor::zeros(case.output.clone()).expect("room");
            let complaints =
                library.try_launch(kernel, &case.bound, &case.data, std::slice::from_mut(&mut output));
            (output, complaints)
        };
        let (right, complaints) = run(kernel);
        assert!(complaints == 0 && !reports.new_one(), "{}: with all its waits", kernel.what);
        for w in list {
            let (got, complaints) = run(&w.kernel);
            noticed.note(w, reports.new_one(), complaints > 0, got.bytes() == right.bytes());
        }
    }
    noticed.judge(100);
}

#[test]
#[ignore = "needs ThreadSanitizer: scripts/kernel-sanitizers runs it"]
fn a_kernel_that_does_not_wait_is_noticed() {
    let mut reports = Reports::new();
    let cases = one_of_each_kind();
    let changed: Vec<Vec<Vec<Without>>> =
        cases.iter().map(|(_, list)| list.iter().map(without).collect()).collect();
    let library = library(cases.iter().flat_map(|c| &c.1), changed.iter().flatten().flatten());
    let mut noticed = Noticed::default();
    for ((case, list), changed) in cases.iter().zip(&changed) {
        let (right, status, complaints) = library.try_run(case, list);
        assert!(complaints == 0 && !reports.new_one(), "{}: with all its waits", case.name);
        for (i, w) in changed.iter().enumerate().flat_map(|(i, list)| list.iter().map(move |w| (i, w))) {
            let mut list = list.clone();
            list[i] = w.kernel.clone();
            let (got, other, complaints) = library.try_run(case, &list);
            let same = other == status && got.iter().zip(&right).all(|(a, b)| a.bytes() == b.bytes());
            noticed.note(w, reports.new_one(), complaints > 0, same);
        }
    }
    noticed.judge(20);
}
