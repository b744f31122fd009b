//! The first bytes of a TLS connection.

/// A ClientHello that asks for `name`, in records of at most `fragment` bytes.
pub fn hello(name: Option<&str>, fragment: usize) -> Vec<u8> {
    let sized = |width: usize, bytes: &[u8]| [&bytes.len().to_be_bytes()[8 - width..], bytes].concat();
    let mut extensions = [&[0x1a, 0x1a][..], &sized(2, &[])].concat();
    if let Some(name) = name {
        let entry = [&[0][..], &sized(2, name.as_bytes())].concat();
        extensions.extend([&[0, 0][..], &sized(2, &sized(2, &entry))].concat());
    }
    let random = [&[3, 3][..], &[5; 32], &sized(1, &[]), &sized(2, &[0x13, 0x01]), &sized(1, &[0])].concat();
    let body = [random, sized(2, &extensions)].concat();
    let message = [&[1][..], &sized(3, &body)].concat();
    message.chunks(fragment).flat_map(|part| [&[22, 3, 1][..], &sized(2, part)].concat()).collect()
}
