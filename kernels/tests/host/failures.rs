//! Matrices that cannot be decomposed.

use streampool_conformance::Cases;
use streampool_kernels::failure;

use crate::library::Library;
use crate::run::fails_on_cpu;

fn seed() -> u64 {
    std::time::UNIX_EPOCH.elapsed().expect("a clock").as_nanos() as u64
}

/// What cannot be decomposed is told by name and place, as the CPU device tells it; the rest of the batch is done all the same.
#[test]
fn a_matrix_that_cannot_be_decomposed_is_told() {
    let mut cases = Cases::new(seed());
    let said = cases.failing_linear_algebra();
    let library = Library::new(&cases.list);
    for (case, said) in cases.list.iter().zip(said) {
        let here = fails_on_cpu(case);
        assert!(here.is_invalid_argument() && here.to_string().contains(said), "{}: {here}", case.name);
        let status = library.status(case);
        assert_eq!(failure(&case.op, status).as_deref(), Some(said), "{}", case.name);
    }
}

/// Of several that fail the first is told, whatever the order in which blocks run.
#[test]
fn of_several_failures_the_first_is_told() {
    let mut cases = Cases::new(seed());
    cases.failing_linear_algebra();
    for case in &mut cases.list {
        let bytes = case.data[0].bytes_mut();
        let each = bytes.len() / 4;
        bytes.copy_within(2 * each..3 * each, each);
    }
    let library = Library::new(&cases.list);
    for case in &cases.list {
        let said = failure(&case.op, library.status(case)).unwrap_or_default();
        assert!(said.contains("matrix 1 of the batch"), "{}: {said}", case.name);
    }
}
