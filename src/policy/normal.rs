//! One form for all ways to write a path, so that a route can't be avoided by
//! writing it in another way, and what was matched is what is sent on
//! (RFC 3986, section 6.2.2).

use super::shaping::path::is_dots;

/// What no path may hold once it is resolved.
const CLIMBS: &str = "a segment of the path would be `.` or `..` to some servers";

/// The path in that form; `None` where it has it already. With `slashes` the
/// escapes of `/` and `\` stay as they are, else they are refused.
///
/// Escapes of letters, digits, `-`, `.`, `_` and `~` are resolved, the others get
/// capitals, `.` and `..` are resolved, and a row of slashes becomes one.
pub fn path(path: &str, slashes: bool) -> Result<Option<String>, &'static str> {
    let odd = |pair: &[u8]| matches!(pair, [b'/', b'/' | b'.'] | [b'%' | b'\\' | b';', _]);
    let plain = !path.as_bytes().windows(2).any(odd) && !path.ends_with(['%', '\\']);
    if plain || !path.starts_with('/') {
        return Ok(None);
    }
    let mut parts: Vec<String> = Vec::new();
    let mut folder = false;
    for part in path[1..].split('/') {
        let part = segment(part, slashes)?;
        folder = matches!(&*part, "" | "." | "..");
        match &*part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or("the path leads above `/`")?;
            }
            _ if is_dots(&part) => return Err(CLIMBS),
            _ => parts.push(part),
        }
    }
    let end = if folder && !parts.is_empty() { "/" } else { "" };
    let new = format!("/{}{end}", parts.join("/"));
    Ok((new != path).then_some(new))
}

fn segment(part: &str, slashes: bool) -> Result<String, &'static str> {
    let mut new = String::with_capacity(part.len());
    let mut rest = part;
    while let Some(at) = rest.find(['%', '\\']) {
        new.push_str(&rest[..at]);
        if rest.as_bytes()[at] == b'\\' {
            return Err("a `\\` in the path, which some take for `/`");
        }
        let digits = rest.get(at + 1..at + 3).filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()));
        let digits = digits.ok_or("a `%` in the path without two digits")?;
        match u8::from_str_radix(digits, 16).unwrap_or_default() {
            0 => return Err("a NUL in the path"),
            b'/' | b'\\' if !slashes => return Err("an escaped `/` or `\\` in the path"),
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => new.push(char::from(byte)),
            _ => {
                new.push('%');
                new.push_str(&digits.to_ascii_uppercase());
            }
        }
        rest = &rest[at + 3..];
    }
    new.push_str(rest);
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_to_write_a_path_become_one() {
        for (written, wanted) in [
            ("/", "/"),
            ("/v1/users/7", "/v1/users/7"),
            ("/v1/users/", "/v1/users/"),
            ("//v1///users", "/v1/users"),
            ("/v1/%75sers/%7e%41%2D", "/v1/users/~A-"),
            ("/v1/./users/../orders", "/v1/orders"),
            ("/v1/users/..", "/v1/"),
            ("/v1/users/.", "/v1/users/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/..", "/"),
            ("/caf%c3%a9/%20", "/caf%C3%A9/%20"),
            ("/.well-known/...", "/.well-known/..."),
            ("/a;v=1.2/b", "/a;v=1.2/b"),
            ("/a%3Bv", "/a%3Bv"),
            ("*", "*"),
            ("", ""),
        ] {
            assert_eq!(path(written, false).map(|new| new.unwrap_or(written.into())), Ok(wanted.into()));
            // What comes out is in that form.
            assert_eq!(path(wanted, false), Ok(None), "{wanted}");
        }
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        for wrong in [
            "/..",
            "/a/../..",
            "/%2e%2e/",
            "/a\\b",
            "/a\\",
            "/a%",
            "/a%4",
            "/a%zz",
            "/a%00",
            "/a%2fb",
            "/a%5Cb",
            "/a/..;x/b",
            "/a/.;/b",
            "/..%2fb",
            "/%+1",
        ] {
            assert!(path(wrong, false).is_err(), "{wrong}");
        }
        assert_eq!(path("/a%2fb", true), Ok(Some("/a%2Fb".into())));
        assert_eq!(path("/a%2Fb%5C", true), Ok(None));
        for wrong in ["/a%2f..%2fb", "/..%2fb", "/a%5c../b", "/%2e%2e%2fadmin"] {
            assert!(path(wrong, true).is_err(), "{wrong}");
        }
    }

    #[test]
    fn whatever_comes_out_is_not_changed_again() {
        let mut random = fastrand::Rng::with_seed(3);
        let pieces = ["/", ".", "..", "%2e", "%2F", "a", "%41", ";", "//", "%5c", "b", "%25", "%", "2"];
        for _ in 0..50_000 {
            let count = random.usize(0..9);
            let written: String = (0..count).map(|_| pieces[random.usize(..pieces.len())]).collect();
            let written = format!("/{written}");
            for slashes in [false, true] {
                let Ok(new) = path(&written, slashes) else { continue };
                let new = new.unwrap_or(written.clone());
                assert_eq!(path(&new, slashes), Ok(None), "{written} became {new}");
                assert!(!new.split('/').any(is_dots) && !new.contains("//"), "{written} became {new}");
            }
        }
    }
}
