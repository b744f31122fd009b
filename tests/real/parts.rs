//! Where the parts are that `tests/parts/install.sh` installs.

use std::path::{Path, PathBuf};

/// The folder of what was installed: `PILLION_CACHE`, else `.cache`.
pub fn cache() -> PathBuf {
    match std::env::var_os("PILLION_CACHE") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache"),
    }
}

/// A file below [`cache`], which must be there.
#[track_caller]
pub fn installed(file: &str) -> PathBuf {
    let path = cache().join(file);
    assert!(path.exists(), "{} is missing: run tests/parts/install.sh", path.display());
    path
}

#[test]
fn what_is_missing_is_told() {
    let told = std::panic::catch_unwind(|| installed("bin/nothing-of-this-name"));
    let told = *told.expect_err("there is no such file").downcast::<String>().expect("a text");
    assert!(told.ends_with("run tests/parts/install.sh"), "{told}");
}
