//! A fault that a sanitizer must report.

use streampool_core::op::{DType, HostTensor, TensorType};

use crate::library::Library;
use crate::products;

/// The last elements of an output are not there.
#[test]
#[ignore = "needs AddressSanitizer: scripts/kernel-sanitizers runs it"]
fn a_kernel_that_writes_beyond_its_output() {
    let case = products::cases().into_iter().min_by_key(|c| c.output.bytes()).expect("there are cases");
    let library = Library::of([case.kernel.clone()]);
    let mut short = HostTensor::zeros(TensorType::new(DType::U8, [case.output.bytes() - 16])).expect("room");
    library.launch(&case.kernel, &case.bound, &case.data, std::slice::from_mut(&mut short));
}
