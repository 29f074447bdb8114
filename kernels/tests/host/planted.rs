//! A fault that a sanitizer must report.

use streampool_core::op::Place;
use streampool_kernels::Binding;

use crate::library::Library;
use crate::products;

/// The last elements of an output are not there.
#[test]
#[ignore = "needs AddressSanitizer: scripts/kernel-sanitizers runs it"]
fn a_kernel_that_writes_beyond_its_output() {
    let case = products::cases().into_iter().min_by_key(|c| c.output.bytes()).expect("there are cases");
    let library = Library::of([case.kernel.clone()]);
    let mut short = vec![0u8; case.output.bytes() - 16].into_boxed_slice();
    library.launch_at(&case.kernel, |binding| match binding {
        Binding::Output(_) => Some(short.as_mut_ptr()),
        Binding::Input(i) => {
            let Place::Input(n) = case.bound[i].place else { return None };
            Some(case.data[n as usize].bytes().as_ptr().cast_mut())
        }
        Binding::Status | Binding::Scratch => None,
    });
}
