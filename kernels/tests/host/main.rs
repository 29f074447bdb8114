//! The kernels, compiled for the host and executed thread by thread, against the CPU device.
//!
//! All cases go into one library, so that the compiler runs once. Without a C++ compiler (`$CXX`, else `c++`) the tests fail and say so.

mod attended;
mod chain;
mod embedded;
mod failures;
mod library;
mod nvrtc;
mod planted;
mod products;
mod races;
mod run;
mod targets;

use library::Library;
use run::expected;
use streampool_conformance::Cases;

/// Every case of every family, on inputs that differ from run to run.
#[test]
fn kernels_agree_with_the_cpu_device() {
    let seed = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_nanos() as u64;
    let mut cases = Cases::new(seed);
    cases.all();
    let library = Library::new(&cases.list);
    let failed: Vec<String> = cases
        .list
        .iter()
        .filter_map(|case| match library.execute(case) {
            (_, Some(index)) => Some(format!("{}: index {index} is out of range", case.name)),
            (got, None) => case.compare(&expected(case), &got).err(),
        })
        .collect();
    println!(
        "host kernels: {} of {} cases agree, seed {seed}",
        cases.list.len() - failed.len(),
        cases.list.len()
    );
    assert!(cases.list.len() > 1000, "cases got lost: {}", cases.list.len());
    assert!(failed.is_empty(), "seed {seed}: {} cases differ:\n{}", failed.len(), failed.join("\n"));
}

/// An index out of range is told, and nothing is written out of bounds.
#[test]
fn an_index_out_of_range_is_told() {
    let mut cases = Cases::new(1);
    for indices in [[0, 3, -4, 9], [0, 3, -11, 2], [0, 3, -10, 9]] {
        cases.gather_with(&indices);
    }
    let library = Library::new(&cases.list);
    let told: Vec<Option<i64>> = cases.list.iter().map(|c| library.execute(c).1).collect();
    assert_eq!(told, [None, Some(-11), None]);
}
