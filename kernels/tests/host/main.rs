//! The kernels, compiled for the host and executed thread by thread, against the CPU device.
//!
//! All cases go into one library, so that the compiler runs once. Without a C++ compiler (`$CXX`, else `c++`) the tests fail and say so.

mod cases;
mod run;

use cases::Cases;

/// Every case of every family, twice on fresh inputs.
#[test]
fn kernels_agree_with_the_cpu_device() {
    let mut cases = Cases::default();
    cases.all();
    let kernels = cases.compile();
    let failed: Vec<String> = cases.list.iter().filter_map(|case| case.compare(&kernels).err()).collect();
    println!("host kernels: {} of {} cases agree", cases.list.len() - failed.len(), cases.list.len());
    assert!(cases.list.len() > 300, "cases got lost: {}", cases.list.len());
    assert!(
        failed.is_empty(),
        "{} of {} cases differ:\n{}",
        failed.len(),
        cases.list.len(),
        failed.join("\n")
    );
}

/// An index out of range is told, and nothing is written out of bounds.
#[test]
fn an_index_out_of_range_is_told() {
    let mut cases = Cases::default();
    cases.gather_with(&[0, 3, -4, 9]);
    cases.gather_with(&[0, 3, -11, 2]);
    cases.gather_with(&[0, 3, -10, 9]);
    let kernels = cases.compile();
    let told: Vec<Option<i64>> = cases.list.iter().map(|c| c.execute(&kernels).1).collect();
    assert_eq!(told, [None, Some(-11), None]);
}
