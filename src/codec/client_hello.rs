//! The name that a TLS caller asks for: the `server_name` of its ClientHello
//! (RFC 8446, section 4.1.2; RFC 6066, section 3). Nothing else of TLS is read,
//! and nothing is changed: the bytes pass through.
//!
//! With Encrypted Client Hello this is the name of the outer hello, which is
//! all that anybody but the server can see.

/// What the first bytes of a TLS connection say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// The hello is not complete yet.
    More,
    /// The name, in lower case.
    Name(String),
    /// A hello without a name.
    NoName,
    /// No hello, or one that breaks the rules.
    Malformed,
}

/// Bytes of a connection that are looked at; hellos with post-quantum keys have
/// less than 3 KiB.
pub const MOST: usize = 16 * 1024;

/// The largest fragment of a record (RFC 8446, section 5.1).
const FRAGMENT: usize = 1 << 14;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// Reads the name from `bytes`, the first of a connection.
pub fn server_name(bytes: &[u8]) -> Hello {
    match message(bytes) {
        Ok(Some(message)) => name(&message).unwrap_or(Hello::Malformed),
        Ok(None) if bytes.len() < MOST => Hello::More,
        Ok(None) | Err(Wrong) => Hello::Malformed,
    }
}

/// What breaks the rules.
struct Wrong;

/// The body of the first handshake message, put together from its records;
/// `None` while some of it is missing.
fn message(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, Wrong> {
    let mut message = Vec::new();
    loop {
        if let [kind, rest @ ..] = &message[..] {
            if *kind != CLIENT_HELLO {
                return Err(Wrong);
            }
            if let [a, b, c, body @ ..] = rest {
                let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
                if length > MOST {
                    return Err(Wrong);
                }
                if body.len() >= length {
                    return Ok(Some(body[..length].to_vec()));
                }
            }
        }
        let [kind, major, rest @ ..] = bytes else {
            return if matches!(bytes, [] | [HANDSHAKE]) { Ok(None) } else { Err(Wrong) };
        };
        if *kind != HANDSHAKE || *major != 3 {
            return Err(Wrong);
        }
        let [_, a, b, rest @ ..] = rest else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([*a, *b]));
        if !(1..=FRAGMENT).contains(&length) {
            return Err(Wrong);
        }
        let held = rest.len().min(length);
        message.extend_from_slice(&rest[..held]);
        bytes = &rest[held..];
    }
}

/// The name in the body of a ClientHello; `None` where it breaks the rules.
fn name(body: &[u8]) -> Option<Hello> {
    let mut hello = Reader(body);
    hello.take(2 + 32)?;
    if hello.list(1)?.0.len() > 32 {
        return None;
    }
    let suites = hello.list(2)?.0.len();
    let compressions = hello.list(1)?.0.len();
    if suites < 2 || !suites.is_multiple_of(2) || compressions == 0 {
        return None;
    }
    // Hellos before TLS 1.2 may end here.
    if hello.0.is_empty() {
        return Some(Hello::NoName);
    }
    let mut extensions = hello.list(2)?;
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let content = extensions.list(2)?;
        if kind == usize::from(SERVER_NAME) && found.replace(host(content)?).is_some() {
            return None;
        }
    }
    if !hello.0.is_empty() {
        return None;
    }
    Some(found.map_or(Hello::NoName, Hello::Name))
}

/// The host name of a list of names.
fn host(mut content: Reader<'_>) -> Option<String> {
    let mut names = content.list(2)?;
    if !content.0.is_empty() {
        return None;
    }
    let mut host = None;
    while !names.0.is_empty() {
        let kind = names.number(1)?;
        let name = names.list(2)?;
        if kind == usize::from(HOST_NAME) && host.replace(name.0).is_some() {
            return None;
        }
    }
    let host = host?;
    let legal = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let edge = |b: Option<&u8>| b == Some(&b'.');
    let right = (1..=253).contains(&host.len())
        && host.iter().all(legal)
        && !edge(host.first())
        && !edge(host.last());
    right.then(|| String::from_utf8_lossy(host).to_ascii_lowercase())
}

/// Bytes that are read from the front.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of `width` bytes.
    fn number(&mut self, width: usize) -> Option<usize> {
        Some(self.take(width)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// What follows a length of `width` bytes.
    fn list(&mut self, width: usize) -> Option<Self> {
        let length = self.number(width)?;
        self.take(length).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sized(width: usize, bytes: &[u8]) -> Vec<u8> {
        [&bytes.len().to_be_bytes()[8 - width..], bytes].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &sized(2, content)].concat()
    }

    fn server_name_extension(name: &str) -> Vec<u8> {
        let entry = [&[HOST_NAME][..], &sized(2, name.as_bytes())].concat();
        extension(SERVER_NAME, &sized(2, &entry))
    }

    /// A hello with these extensions, in records of at most `fragment` bytes.
    fn hello(extensions: &[Vec<u8>], fragment: usize) -> Vec<u8> {
        let body = [
            &[3, 3][..],
            &[7; 32],
            &sized(1, &[9; 32]),
            &sized(2, &[0x0a, 0x0a, 0x13, 0x01]),
            &sized(1, &[0]),
            &sized(2, &extensions.concat()),
        ]
        .concat();
        let message = [&[CLIENT_HELLO][..], &sized(3, &body)].concat();
        let record = |part: &[u8]| [&[HANDSHAKE, 3, 1][..], &sized(2, part)].concat();
        message.chunks(fragment).flat_map(record).collect()
    }

    /// GREASE (RFC 8701), and Encrypted Client Hello.
    fn others() -> Vec<Vec<u8>> {
        vec![extension(0x0a0a, &[]), extension(0xfe0d, &[1; 200]), extension(43, &[2, 3, 4])]
    }

    #[test]
    fn the_name_is_found_among_others_and_the_lack_of_it_too() {
        let with = [others(), vec![server_name_extension("Vault.Example.com")], others()].concat();
        assert_eq!(server_name(&hello(&with, 512)), Hello::Name("vault.example.com".into()));
        assert_eq!(server_name(&hello(&others(), 512)), Hello::NoName);
    }

    #[test]
    fn what_breaks_the_rules_has_no_name() {
        let twice = vec![server_name_extension("a"), server_name_extension("b")];
        for extensions in [
            twice,
            vec![server_name_extension("")],
            vec![server_name_extension("a b")],
            vec![server_name_extension("a\0")],
            vec![server_name_extension(".a")],
            vec![server_name_extension("a.")],
            vec![server_name_extension(&"a".repeat(254))],
            vec![extension(SERVER_NAME, &[])],
            vec![extension(SERVER_NAME, &[0, 9, 0, 0, 1, b'a'])],
        ] {
            assert_eq!(server_name(&hello(&extensions, 512)), Hello::Malformed, "{extensions:?}");
        }
        for bytes in [
            &b"GET / HTTP/1.1"[..],
            &[HANDSHAKE, 2],
            &[HANDSHAKE, 3, 1, 0, 0],
            &[HANDSHAKE, 3, 1, 0x40, 1],
            &[HANDSHAKE, 3, 1, 0, 4, 2, 0, 0, 0],
            &[HANDSHAKE, 3, 1, 0, 4, CLIENT_HELLO, 1, 0, 0],
            &[HANDSHAKE, 3, 1, 0, 4, CLIENT_HELLO, 0, 0, 0],
        ] {
            assert_eq!(server_name(bytes), Hello::Malformed, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn a_hello_reads_the_same_however_it_is_cut(
            name in "[a-z0-9]([a-z0-9.-]{0,60}[a-z0-9])?", fragment in 1_usize..600,
        ) {
            let bytes = hello(&[others(), vec![server_name_extension(&name)]].concat(), fragment);
            prop_assert_eq!(server_name(&bytes), Hello::Name(name.clone()));
            for length in 0..bytes.len() {
                prop_assert_eq!(server_name(&bytes[..length]), Hello::More, "{} bytes", length);
            }
            let more = [&bytes[..], b"what follows"].concat();
            prop_assert_eq!(server_name(&more), Hello::Name(name));
        }

        #[test]
        fn a_changed_hello_never_panics_and_names_nothing_strange(
            at in 0_usize..400, value: u8, cut in 0_usize..500,
        ) {
            let mut bytes = hello(&[others(), vec![server_name_extension("vault")]].concat(), 64);
            let at = at % bytes.len();
            bytes[at] = value;
            bytes.truncate(cut.max(1));
            if let Hello::Name(name) = server_name(&bytes) {
                prop_assert!(!name.is_empty() && name.is_ascii());
            }
        }

        #[test]
        fn noise_never_panics(bytes: Vec<u8>) {
            let _ = server_name(&bytes);
            let _ = server_name(&[&[HANDSHAKE, 3, 1][..], &bytes].concat());
        }
    }

    #[test]
    fn what_never_ends_is_given_up() {
        let endless = [&[HANDSHAKE, 3, 1, 0x40, 0, CLIENT_HELLO, 0, 0x3f, 0xff][..], &[0; MOST]].concat();
        assert_eq!(server_name(&endless[..MOST]), Hello::Malformed);
        assert_eq!(server_name(&endless[..MOST - 1]), Hello::More);
    }
}
