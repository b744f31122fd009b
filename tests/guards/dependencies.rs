//! What may not come into the build by way of a dependency.

use super::source::root;

/// `consulrs` brings its own old HTTP client, which nothing calls and the
/// linker drops; a newer `rustify` would bring OpenSSL into the binary too.
#[test]
fn no_openssl_and_no_newer_rustify() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let packages: Vec<(&str, &str)> = lock.split("[[package]]").skip(1).filter_map(package).collect();
    assert!(packages.len() > 100, "Cargo.lock is read wrong");
    for (name, version) in packages {
        let banned = ["openssl", "openssl-sys", "native-tls", "hyper-tls"].contains(&name);
        assert!(!banned, "{name} {version} has come into the build");
        assert!(name != "rustify" || version == "0.5.2", "rustify {version} turns on OpenSSL");
    }
}

fn package(text: &str) -> Option<(&str, &str)> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_suffix('"'));
    Some((value("name = \"")?, value("version = \"")?))
}
