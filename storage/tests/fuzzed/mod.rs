//! Every input that a fuzz target has kept, given to the target again: what was found once stays found.

use std::path::Path;

use arbitrary::{Arbitrary, Unstructured};

/// Calls a target with every file of its corpus, made a value as the fuzzer makes it.
pub fn replay<T: for<'a> Arbitrary<'a>>(target: &str, mut entry: impl FnMut(T)) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs = 0;
    for file in std::fs::read_dir(&corpus).expect("a corpus is committed") {
        let path = file.expect("listed").path();
        let bytes = std::fs::read(&path).expect("read");
        println!("{}", path.display());
        if let Ok(input) = T::arbitrary_take_rest(Unstructured::new(&bytes)) {
            entry(input);
            inputs += 1;
        }
    }
    assert!(inputs > 0, "nothing in {} is an input", corpus.display());
}
