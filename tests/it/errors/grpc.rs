//! `grpc-status-details-bin`, read from its bytes.

/// `google.rpc.Status` with the details that Pillion writes.
#[derive(Debug, Default)]
pub struct Status {
    pub code: u64,
    pub message: String,
    pub error_info: Option<ErrorInfo>,
    /// `RetryInfo.retry_delay` in seconds.
    pub retry_delay: Option<u64>,
}

/// `google.rpc.ErrorInfo` without its metadata.
#[derive(Debug, Default)]
pub struct ErrorInfo {
    pub reason: String,
    pub domain: String,
}

impl Status {
    pub fn decode(base64: &str) -> Self {
        let mut status = Self::default();
        for (field, number, bytes) in fields(&base64_decoded(base64)) {
            match field {
                1 => status.code = number,
                2 => status.message = String::from_utf8(bytes).unwrap(),
                3 => status.detail(&bytes),
                _ => panic!("google.rpc.Status has no field {field}"),
            }
        }
        status
    }

    fn detail(&mut self, any: &[u8]) {
        let any = fields(any);
        let url = any.iter().find(|(field, ..)| *field == 1).expect("a type_url");
        let empty = (2, 0, Vec::new());
        let value = any.iter().find(|(field, ..)| *field == 2).unwrap_or(&empty);
        match url.2.as_slice() {
            b"type.googleapis.com/google.rpc.ErrorInfo" => {
                let mut info = ErrorInfo::default();
                for (field, _, bytes) in fields(&value.2) {
                    match field {
                        1 => info.reason = String::from_utf8(bytes).unwrap(),
                        2 => info.domain = String::from_utf8(bytes).unwrap(),
                        _ => assert_eq!(field, 3, "ErrorInfo has no field {field}"),
                    }
                }
                self.error_info = Some(info);
            }
            b"type.googleapis.com/google.rpc.RetryInfo" => {
                let delay = fields(&value.2);
                assert_eq!(delay.len(), 1);
                self.retry_delay = Some(fields(&delay[0].2).first().map_or(0, |seconds| seconds.1));
            }
            other => panic!("a detail of type {}", String::from_utf8_lossy(other)),
        }
    }
}

/// The fields of a protobuf message: number, varint, bytes.
fn fields(mut message: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
    let mut all = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let number = varint(&mut message);
        match key & 7 {
            0 => all.push((key >> 3, number, Vec::new())),
            2 => {
                let (bytes, rest) = message.split_at(usize::try_from(number).unwrap());
                all.push((key >> 3, 0, bytes.to_vec()));
                message = rest;
            }
            wire => panic!("wire type {wire}"),
        }
    }
    all
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().expect("a whole varint");
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return value;
        }
    }
    panic!("a varint of more than ten bytes");
}

fn base64_decoded(text: &str) -> Vec<u8> {
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for letter in text.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => panic!("{text} is not base64"),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).unwrap());
        }
    }
    bytes
}

/// The message as gRPC's clients show it.
pub fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits: String = rest.by_ref().take(2).map(char::from).collect();
            bytes.push(u8::from_str_radix(&digits, 16).expect("two digits"));
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_status_is_decoded() {
    // code 14, message "gone", ErrorInfo {reason: "R", domain: "d"}.
    let text = "CA4SBGdvbmUaMgoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLkVycm9ySW5mbxIGCgFSEgFk";
    let status = Status::decode(text);
    assert_eq!((status.code, status.message.as_str()), (14, "gone"));
    let info = status.error_info.unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("R", "d"));
    assert_eq!(status.retry_delay, None);
    assert_eq!(percent_decoded("a%20%25"), "a %");
}
