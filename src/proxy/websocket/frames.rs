//! Follows the frames of one direction of a WebSocket as its bytes pass
//! (RFC 6455, section 5.2), to know where another frame could stand. Only
//! headers are read; nothing is held and nothing is changed.

/// Bytes of the longest header, without the mask.
const LONGEST: usize = 10;
/// The opcode of a close frame.
const CLOSE: u8 = 8;
/// Bytes of a mask.
const MASK: u64 = 4;

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follower {
    masked: bool,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Within a header, of which `have` bytes are here. None: between two frames.
    Header { bytes: [u8; LONGEST], have: usize },
    /// So much of a frame is to come, and whether it is the last one.
    Payload { left: u64, last: bool },
    /// A close frame has passed.
    Closed,
    /// These are no frames; nobody knows where another could stand.
    Lost,
}

impl Follower {
    /// Frames of a client are masked, those of a server are not.
    pub fn new(masked: bool) -> Self {
        Self { masked, state: State::START }
    }

    /// Bytes that are not followed.
    pub fn lost() -> Self {
        Self { masked: false, state: State::Lost }
    }

    /// These bytes have passed.
    pub fn follow(&mut self, bytes: &[u8]) {
        self.pass(bytes, false);
    }

    /// How many of these bytes belong to the frame at hand. All of them, where
    /// that is not known.
    pub fn rest(&self, bytes: &[u8]) -> usize {
        match self.state {
            State::Lost => bytes.len(),
            State::Closed => 0,
            _ => self.clone().pass(bytes, true),
        }
    }

    /// Whether another frame may stand here.
    pub fn is_between(&self) -> bool {
        matches!(self.state, State::Header { have: 0, .. })
    }

    /// Whether it is known where another frame could stand, and that is not yet.
    pub fn is_within(&self) -> bool {
        matches!(self.state, State::Header { have: 1.., .. } | State::Payload { .. })
    }

    /// Whether a close frame has passed, after which no other may stand.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Returns how many bytes were taken: all, or with `stop` those of the frame
    /// at hand.
    fn pass(&mut self, bytes: &[u8], stop: bool) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if stop && self.is_between() {
                return at;
            }
            match &mut self.state {
                State::Lost | State::Closed => return bytes.len(),
                State::Payload { left, last } => {
                    let here = (bytes.len() - at) as u64;
                    if *left > here {
                        *left -= here;
                        return bytes.len();
                    }
                    at += usize::try_from(*left).unwrap_or(usize::MAX);
                    self.state = if *last { State::Closed } else { State::START };
                }
                State::Header { bytes: header, have } => {
                    header[*have] = bytes[at];
                    *have += 1;
                    at += 1;
                    if *have >= 2 {
                        self.state = State::after(&header[..*have], self.masked)
                            .unwrap_or(State::Header { bytes: *header, have: *have });
                    }
                }
            }
        }
        at
    }
}

impl State {
    const START: Self = Self::Header { bytes: [0; LONGEST], have: 0 };

    /// What follows a header; `None` while it is not whole. Compression and
    /// other extensions change none of this but the three reserved bits.
    fn after(header: &[u8], masked: bool) -> Option<Self> {
        let (opcode, is_final) = (header[0] & 0x0f, header[0] & 0x80 != 0);
        let (is_masked, short) = (header[1] & 0x80 != 0, header[1] & 0x7f);
        let control = opcode >= CLOSE;
        if is_masked != masked || !matches!(opcode, 0..=2 | 8..=10) || (control && (short > 125 || !is_final))
        {
            return Some(Self::Lost);
        }
        let length = match short {
            126 => u64::from(u16::from_be_bytes(header[2..].try_into().ok()?)),
            127 => u64::from_be_bytes(header[2..].try_into().ok()?),
            short => short.into(),
        };
        if length >= 1 << 63 {
            return Some(Self::Lost);
        }
        let (left, last) = (length + if masked { MASK } else { 0 }, opcode == CLOSE);
        Some(match (left, last) {
            (0, true) => Self::Closed,
            (0, false) => Self::START,
            _ => Self::Payload { left, last },
        })
    }
}

/// A close frame with this status.
pub fn close(status: u16, mask: Option<[u8; 4]>) -> Vec<u8> {
    let payload = status.to_be_bytes();
    let mut frame = vec![0x80 | CLOSE, 2];
    match mask {
        None => frame.extend(payload),
        Some(mask) => {
            frame[1] |= 0x80;
            frame.extend(mask);
            frame.extend(payload.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
        }
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// A frame with a payload of `length` bytes.
    fn frame(opcode: u8, is_final: bool, length: usize, masked: bool) -> Vec<u8> {
        let mask_bit = if masked { 0x80 } else { 0 };
        let mut bytes = vec![opcode | if is_final { 0x80 } else { 0 }];
        match u16::try_from(length) {
            Ok(short @ ..126) => bytes.push(short.to_be_bytes()[1] | mask_bit),
            Ok(short) => {
                bytes.push(126 | mask_bit);
                bytes.extend(short.to_be_bytes());
            }
            Err(_) => {
                bytes.push(127 | mask_bit);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        // Payload and mask look like headers, which must fool nobody.
        bytes.extend(std::iter::repeat_n(0x88, length + if masked { 4 } else { 0 }));
        bytes
    }

    fn frames() -> impl Strategy<Value = Vec<(u8, bool, usize)>> {
        let length = prop_oneof![0..3usize, 120..130usize, 65_530..65_540usize];
        let data = (0..=2u8, any::<bool>(), length);
        let control = (9..=10u8, Just(true), 0..=125usize);
        vec(prop_oneof![data, control], 0..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_places_between_frames_are_known_however_bytes_are_split(
            frames in frames(),
            masked: bool,
            closes: bool,
            cuts in vec(1..70_000usize, 1..40),
        ) {
            let (mut bytes, mut ends) = (Vec::new(), vec![0]);
            for (opcode, is_final, length) in frames {
                bytes.extend(frame(opcode, is_final, length, masked));
                ends.push(bytes.len());
            }
            let last = bytes.len();
            if closes {
                bytes.extend(frame(8, true, 2, masked));
            }
            let (mut follower, mut at) = (Follower::new(masked), 0);
            for cut in cuts.into_iter().cycle() {
                prop_assert_eq!(follower.is_between(), ends.contains(&at));
                prop_assert_eq!(follower.is_closed(), closes && at == bytes.len());
                if at == bytes.len() {
                    break;
                }
                let rest = follower.rest(&bytes[at..]);
                let end = ends.iter().find(|end| **end >= at).copied().unwrap_or(bytes.len());
                prop_assert_eq!(at + rest, end, "the frame at hand ends there");
                let next = (at + cut).min(bytes.len());
                follower.follow(&bytes[at..next]);
                at = next;
            }
            prop_assert!(ends.contains(&last));
        }

        #[test]
        fn any_bytes_are_followed_without_a_panic_and_the_same_in_any_split(
            bytes in vec(any::<u8>(), 0..300),
            masked: bool,
            cut in 1..20usize,
        ) {
            let (mut whole, mut split) = (Follower::new(masked), Follower::new(masked));
            whole.follow(&bytes);
            bytes.chunks(cut).for_each(|part| split.follow(part));
            prop_assert_eq!(&whole, &split);
            prop_assert!(whole.rest(&bytes) <= bytes.len());
        }
    }

    #[test]
    fn what_breaks_the_framing_is_followed_no_more() {
        for (bytes, masked) in [
            (frame(1, true, 5, true), false),
            (frame(1, true, 5, false), true),
            (frame(3, true, 5, false), false),
            (frame(11, true, 5, false), false),
            (frame(9, false, 5, false), false),
            (frame(9, true, 126, false), false),
            (vec![0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], false),
            (b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), false),
        ] {
            let mut follower = Follower::new(masked);
            follower.follow(&bytes);
            assert_eq!(follower, Follower { masked, ..Follower::lost() }, "{bytes:?}");
            assert!(!follower.is_between() && !follower.is_within() && !follower.is_closed());
            assert_eq!(follower.rest(b"\x81\x00\x81"), 3, "all of it passes");
        }
        // Compressed messages set a reserved bit.
        let mut follower = Follower::new(false);
        follower.follow(&[0xc1, 1, 0]);
        assert!(follower.is_between());
    }

    #[test]
    fn a_close_frame_is_one() {
        assert_eq!(close(1001, None), [0x88, 2, 3, 0xe9]);
        assert_eq!(close(1001, Some([1, 2, 3, 4])), [0x88, 0x82, 1, 2, 3, 4, 2, 0xeb]);
        for mask in [None, Some([9; 4])] {
            let mut follower = Follower::new(mask.is_some());
            follower.follow(&close(1001, mask));
            assert!(follower.is_closed());
            assert_eq!(follower.rest(b"more"), 0);
        }
    }
}
