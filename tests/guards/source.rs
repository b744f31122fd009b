//! The files of the project as git sees them, and Rust code without its
//! comments and strings.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the package.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file that is tracked or would be: relative, sorted. Ignored ones are not in it.
pub fn tracked() -> Vec<PathBuf> {
    let git = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git is there");
    assert!(git.status.success(), "git: {}", String::from_utf8_lossy(&git.stderr));
    let listed = String::from_utf8(git.stdout).expect("paths are text");
    let mut files: Vec<PathBuf> =
        listed.split('\0').filter(|path| !path.is_empty()).map(Into::into).collect();
    files.retain(|path| root().join(path).is_file());
    files.sort();
    files.dedup();
    assert!(files.len() > 20, "git lists the project: {files:?}");
    files
}

/// Those whose name ends with `.extension`, below `folder`.
pub fn tracked_below(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut files = tracked();
    files.retain(|path| path.starts_with(folder) && path.extension().is_some_and(|found| found == extension));
    assert!(!files.is_empty(), "no .{extension} file below {folder:?}");
    files
}

/// The text of a file of the project; `None` for one that is not text.
pub fn text(path: &Path) -> Option<String> {
    String::from_utf8(std::fs::read(root().join(path)).expect("a listed file can be read")).ok()
}

/// Panics with all of `problems`, one a line.
#[track_caller]
pub fn none(problems: &[String], rule: &str) {
    assert!(problems.is_empty(), "{rule}:\n  {}", problems.join("\n  "));
}

/// `code` with each comment, string and character replaced by spaces; lines stay where they are.
pub fn code_only(code: &str) -> String {
    let bytes = code.as_bytes();
    let mut kept = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match token_end(bytes, at) {
            Some(end) => end.min(bytes.len()),
            None => {
                kept.push(bytes[at]);
                at += 1;
                continue;
            }
        };
        kept.extend(bytes[at..end].iter().map(|&b| if b == b'\n' { b'\n' } else { b' ' }));
        at = end;
    }
    String::from_utf8(kept).expect("only whole tokens were replaced")
}

/// Where the comment, string or character that begins at `at` ends, if one does.
fn token_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let find = |needle: &[u8], from: usize| {
        rest[from..].windows(needle.len()).position(|part| part == needle).map(|found| at + from + found)
    };
    match rest {
        [b'/', b'/', ..] => Some(find(b"\n", 2).unwrap_or(bytes.len())),
        [b'/', b'*', ..] => Some(find(b"*/", 2).map_or(bytes.len(), |end| end + 2)),
        [b'r', b'"' | b'#', ..] if at == 0 || !is_word(bytes[at - 1]) || bytes[at - 1] == b'b' => {
            let hashes = rest[1..].iter().take_while(|&&b| b == b'#').count();
            if rest.get(1 + hashes) != Some(&b'"') {
                return None;
            }
            let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
            Some(find(&close, 2 + hashes).map_or(bytes.len(), |end| end + close.len()))
        }
        [b'"', ..] => {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            Some(end + 1)
        }
        [b'\'', b'\\', _, ..] => find(b"'", 3).map(|end| end + 1),
        [b'\'', first, ..] => {
            let width = if first.is_ascii() { 1 } else { first.leading_ones() as usize };
            (rest.get(1 + width) == Some(&b'\'')).then_some(at + width + 2)
        }
        _ => None,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[test]
fn comments_and_strings_are_no_code() {
    let code = "let a = \"crate::x // \\\" \"; // crate::y\nlet b: &'static str = r#\"crate::z\"#; /* crate::w */ 'é'; '\"'; '\\''; use crate::v;";
    let kept = code_only(code);
    assert_eq!(kept.matches("crate::").count(), 1, "{kept}");
    assert!(kept.ends_with("use crate::v;") && kept.contains("&'static str"), "{kept}");
    assert_eq!(kept.lines().count(), 2);
}
