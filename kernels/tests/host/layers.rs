//! Families whose kernels pass values through scratch memory or through time.

use streampool_conformance::Cases;

use crate::run::{Library, expected};

/// Each case against the CPU device.
fn agree(cases: &Cases, least: usize) {
    let library = Library::new(&cases.list);
    let failed: Vec<String> = cases
        .list
        .iter()
        .filter_map(|case| match library.execute(case) {
            (_, Some(code)) => Some(format!("{}: told {code}", case.name)),
            (got, None) => case.compare(&expected(case), &got).err(),
        })
        .collect();
    println!("{} of {} cases agree", cases.list.len() - failed.len(), cases.list.len());
    assert!(cases.list.len() >= least, "cases got lost: {}", cases.list.len());
    assert!(failed.is_empty(), "{} cases differ:\n{}", failed.len(), failed.join("\n"));
}

fn seed() -> u64 {
    std::time::UNIX_EPOCH.elapsed().expect("a clock").as_nanos() as u64
}

#[test]
fn recurrent_layers_agree_with_the_cpu_device() {
    let mut cases = Cases::new(seed());
    cases.recurrent();
    agree(&cases, 70);
}
