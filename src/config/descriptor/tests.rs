use std::fs;
use std::path::Path;

use prost_reflect::prost_types::{FileDescriptorProto, FileDescriptorSet};

use super::*;
use crate::config::model::{Part, RequestBody};

/// What `protoc --include_imports --descriptor_set_out` writes for a file below `tests/protos`.
pub(crate) fn compiled(file: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/protos");
    let mut compiler = protox::Compiler::new([folder]).unwrap();
    compiler.include_imports(true).open_file(file).unwrap_or_else(|error| panic!("{error}"));
    compiler.encode_file_descriptor_set()
}

/// The same for a file that is given here.
fn written(folder: &Path, text: &str) -> Vec<u8> {
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/protos");
    fs::write(folder.join("a.proto"), text).unwrap();
    let mut compiler = protox::Compiler::new([folder.to_owned(), protos]).unwrap();
    compiler.include_imports(true).open_file("a.proto").unwrap_or_else(|error| panic!("{error}"));
    compiler.encode_file_descriptor_set()
}

/// The descriptors that are part of the project are those of its `.proto` files.
/// `PILLION_BLESS=1` writes them anew.
#[test]
fn the_committed_descriptors_are_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, proto) in [
        ("src/policy/transcode/rpc.pb", "google/rpc/error_details.proto"),
        ("config/policies/shop.pb", "shop/v1/shop.proto"),
    ] {
        let wanted = compiled(proto);
        if std::env::var_os("PILLION_BLESS").is_some() {
            fs::write(root.join(file), &wanted).unwrap();
        }
        assert!(fs::read(root.join(file)).unwrap() == wanted, "{file}: run this test with PILLION_BLESS=1");
    }
}

fn shop() -> Bindings {
    let (pool, _) = pool(&compiled("shop/v1/shop.proto")).unwrap();
    rules::bindings(&pool, &["shop.v1.Users".into()])
}

use rules::Bindings;

#[test]
fn the_rules_of_methods_are_read() {
    let bindings = shop();
    assert_eq!(bindings.faults, []);
    let shown: Vec<String> = bindings
        .list
        .iter()
        .map(|binding| {
            let verb = binding.verb.as_ref().map_or("*", |verb| verb.as_str());
            let parts: Vec<&str> = binding
                .template
                .parts
                .iter()
                .map(|part| match part {
                    Part::Literal(text) => text,
                    Part::One => "*",
                    Part::Rest => "**",
                })
                .collect();
            let suffix = binding.template.suffix.as_ref().map_or(String::new(), |word| format!(":{word}"));
            let body = match &binding.body {
                RequestBody::None => "",
                RequestBody::Whole => " *",
                RequestBody::Field(_) => " field",
            };
            format!("{verb} /{}{suffix} {}{body}", parts.join("/"), binding.method.name())
        })
        .collect();
    assert!(shown.contains(&"GET /v1/shelves/*/books/** Book".to_owned()), "{shown:#?}");
    assert!(shown.contains(&"PATCH /v1/users/* Update field".to_owned()), "{shown:#?}");
    assert!(shown.contains(&"SEARCH /v1/users/* Find".to_owned()), "{shown:#?}");
    let place =
        |text: &str| shown.iter().position(|line| line == text).unwrap_or_else(|| panic!("{shown:#?}"));
    assert!(place("POST /v1/users/*:merge Merge *") < place("GET /v1/users/* Get"), "{shown:#?}");
    assert!(place("GET /v1/users:watch Watch") < place("GET /v1/users List"), "{shown:#?}");
}

#[test]
fn rules_that_can_not_be_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let method = |rule: &str| {
        format!(
            "syntax = \"proto3\"; package a; import \"google/api/annotations.proto\";
            message M {{ string name = 1; repeated string list = 2; M inner = 3; }}
            service S {{ rpc Do(M) returns (M) {{ option (google.api.http) = {{ {rule} }}; }} }}"
        )
    };
    for (rule, wanted) in [
        ("get: \"v1\"", "begins with `/`"),
        ("get: \"/v1/{nobody}\"", "has no field `nobody`"),
        ("get: \"/v1/{list}\"", "is repeated"),
        ("get: \"/v1/{inner}\"", "is a whole message"),
        ("get: \"/v1/{name.more}\"", "within no message"),
        ("get: \"/v1/{name}/{name}\"", "twice"),
        ("get: \"/v1/{name=**}/end\"", "only at the end"),
        ("get: \"/v1//a\"", "is empty"),
        ("get: \"/v1/{name\"", "without its `}`"),
        ("get: \"/v1/{name}x\"", "where a `/` or the end"),
        ("get: \"/v1/a b\"", "is no part"),
        ("get: \"/v1:\"", "not one word"),
        ("post: \"/v1\" body: \"nobody\"", "`body: \"nobody\"`"),
        ("get: \"/v1\" response_body: \"nobody\"", "`response_body: \"nobody\"`"),
        ("body: \"*\"", "names no path"),
        ("get: \"/v1/{name}\" additional_bindings { get: \"/v1/{inner.name}\" }", "take the same requests"),
    ] {
        let (pool, _) = pool(&written(folder.path(), &method(rule))).unwrap();
        let faults = rules::bindings(&pool, &["a.S".into()]).faults;
        assert_eq!(faults.len(), 1, "{rule}: {faults:?}");
        assert!(faults[0].message.contains(wanted), "{rule}: {}", faults[0].message);
    }
}

#[test]
fn what_is_no_descriptor_set_is_refused_with_what_to_do() {
    let file = |name: &str, dependency: &[&str]| FileDescriptorProto {
        name: Some(name.into()),
        dependency: dependency.iter().map(|name| (*name).to_owned()).collect(),
        ..FileDescriptorProto::default()
    };
    let set = |file| FileDescriptorSet { file }.encode_to_vec();
    for (bytes, message, help) in [
        (b"syntax = \"proto3\";".to_vec(), "is no descriptor set", "--descriptor_set_out"),
        (set(vec![file("a", &["b"])]), "lacks `b`, which `a` imports", "--include_imports"),
        (Vec::new(), "holds no service", "service"),
        (set(vec![file("a", &[])]), "holds no service", "service"),
    ] {
        let fault = pool(&bytes).unwrap_err();
        assert!(fault.message.contains(message) && fault.help.contains(help), "{fault:?}");
    }
}

mod files {
    use super::*;
    use crate::config::{Environment, Problem, load};

    fn problems(folder: &Path, policy: &str) -> Vec<String> {
        fs::create_dir_all(folder.join("policies")).unwrap();
        fs::write(folder.join("pillion.yaml"), "version: 1\nservice: {name: a, port: 80}\n").unwrap();
        fs::write(folder.join("policies/a.yaml"), policy).unwrap();
        let problems = load(&folder.join("pillion.yaml"), &Environment::default());
        let problems = problems.err().unwrap_or_default();
        problems
            .iter()
            .map(Problem::headline)
            .map(|line| line.replace(&*folder.to_string_lossy(), ""))
            .collect()
    }

    #[test]
    fn a_descriptor_stands_beside_the_file_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let missing = problems(folder, "version: 1\ninbound:\n  - json: {descriptor: shop.pb}\n");
        assert_eq!(missing, ["/policies/a.yaml:3:24: `shop.pb` can't be read: there is no such file"]);
        fs::write(folder.join("policies/shop.pb"), compiled("shop/v1/shop.proto")).unwrap();
        assert_eq!(problems(folder, "version: 1\ninbound:\n  - json: {descriptor: shop.pb}\n"), [""; 0]);
        let named = "version: 1\ninbound:\n  - json: {descriptor: shop.pb, services: [shop.v1.User]}\n";
        let wanted = "/policies/a.yaml:3:44: the descriptor holds no service `shop.v1.User`";
        assert_eq!(problems(folder, named), [wanted]);
        let small = "version: 1\ninbound:\n  - json: {descriptor: shop.pb, max_message: 1B}\n";
        let wanted = "/policies/a.yaml:3:46: `1B` is out of range: it must be from 1KiB to 256MiB";
        assert_eq!(problems(folder, small), [wanted]);
        fs::write(folder.join("policies/shop.pb"), vec![0; LARGEST + 1]).unwrap();
        let large = problems(folder, "version: 1\noutbound:\n  - {to: b, json: {descriptor: shop.pb}}\n");
        assert_eq!(large, ["/policies/a.yaml:3:32: `shop.pb` can't be read: it is larger than 16384 KiB"]);
    }
}
