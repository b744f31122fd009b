//! Counts what a peer can send without end and at no cost: PING, SETTINGS,
//! PRIORITY, WINDOW_UPDATE, empty frames, resets. The `h2` crate answers or
//! ignores them one by one and never calls it too many (CVE-2019-9511 to
//! CVE-2019-9518, CVE-2023-44487).
//!
//! It looks at the nine bytes of each frame's header on their way to the
//! crate, and never at what a frame holds. DATA frames that neither carry nor
//! end anything are legal and go no further: the crate ends a connection that
//! has brought a hundred of them in all its life.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::base::clock;

/// How long the counts run before they begin anew.
const WINDOW: Duration = Duration::from_secs(10);

/// Bytes of a frame's header (RFC 9113, 4.1).
const HEADER: usize = 9;
/// Bytes sent that earn the peer as many control frames as one of its own does.
const BYTES_FOR_A_FRAME: usize = 16 * 1024;

/// What a peer may send in ten seconds.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// Control frames beyond what its streams and data bring with them.
    pub control: u32,
    /// RST_STREAM frames.
    pub resets: u32,
}

/// Set once the peer has sent too much.
#[derive(Clone, Default)]
pub struct Exceeded(Rc<Shared>);

#[derive(Default)]
struct Shared {
    limit: Cell<Option<&'static str>>,
    /// Resets that streams have earned which were served or waited for.
    earned: Cell<u32>,
}

/// A stream whose incoming frames are counted.
pub struct Counted<S> {
    stream: S,
    allowed: Allowed,
    exceeded: Exceeded,
    scanner: Scanner,
    since: Instant,
    control: u32,
    resets: u32,
    /// Frames that do work, which earn control frames.
    useful: u32,
    /// Bytes sent for which the peer may yet say that it took them.
    sent: usize,
}

#[derive(Default)]
struct Scanner {
    /// Bytes of the client's preface still to come.
    preface: usize,
    header: [u8; HEADER],
    have: usize,
    /// Bytes of an unfinished header that have gone on; the others are held back.
    passed: usize,
    /// Bytes of the frame at hand still to come.
    payload: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Useful,
    Control,
    Reset,
}

impl Exceeded {
    /// The limit that was hit.
    pub fn get(&self) -> Option<&'static str> {
        self.0.limit.get()
    }

    /// A stream was more than opened and reset: one like it may be given up.
    pub fn earn_reset(&self) {
        self.0.earned.set(self.0.earned.get().saturating_add(1));
    }
}

impl<S> Counted<S> {
    /// Counts what comes from a client, whose first 24 bytes are the preface.
    pub fn client(stream: S, allowed: Allowed) -> (Self, Exceeded) {
        let exceeded = Exceeded::default();
        let counted = Self {
            stream,
            allowed,
            exceeded: exceeded.clone(),
            scanner: Scanner { preface: 24, ..Scanner::default() },
            since: clock::now(),
            control: 0,
            resets: 0,
            useful: 0,
            sent: 0,
        };
        (counted, exceeded)
    }

    /// Of a server that is called: nothing is too many.
    pub fn server(stream: S) -> Self {
        let allowed = Allowed { control: u32::MAX, resets: u32::MAX };
        let (mut counted, _) = Self::client(stream, allowed);
        counted.scanner.preface = 0;
        counted
    }

    /// What is sent to the peer earns it WINDOW_UPDATEs.
    fn earn(&mut self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(length)) = written {
            self.sent += length;
            let earned = u32::try_from(self.sent / BYTES_FOR_A_FRAME).unwrap_or(u32::MAX);
            self.sent %= BYTES_FOR_A_FRAME;
            self.useful = self.useful.saturating_add(earned);
        }
    }

    /// Returns how many of `bytes` are to go on; they are in front.
    fn count(&mut self, bytes: &mut [u8]) -> usize {
        let (mut control, mut resets, mut useful) = (0, 0, 0);
        let kept = self.scanner.scan(bytes, |sort| match sort {
            Sort::Useful => useful += 1,
            Sort::Control => control += 1,
            Sort::Reset => resets += 1,
        });
        self.useful = self.useful.saturating_add(useful);
        if control + resets == 0 {
            return kept;
        }
        if clock::since(self.since) > WINDOW {
            (self.since, self.control, self.resets, self.useful) = (clock::now(), 0, 0, useful);
            self.exceeded.0.earned.set(0);
        }
        self.control = self.control.saturating_add(control);
        self.resets = self.resets.saturating_add(resets);
        if self.control > self.allowed.control.saturating_add(self.useful.saturating_mul(4)) {
            self.exceeded.0.limit.set(Some("control_frames"));
        } else if self.resets > self.allowed.resets.saturating_add(self.exceeded.0.earned.get()) {
            self.exceeded.0.limit.set(Some("resets"));
        }
        kept
    }
}

impl Scanner {
    /// Tells each frame and moves what is to go on to the front of `bytes`.
    /// Returns how much that is.
    fn scan(&mut self, bytes: &mut [u8], mut found: impl FnMut(Sort)) -> usize {
        let mut at = self.preface.min(bytes.len());
        self.preface -= at;
        let mut kept = at;
        while at < bytes.len() {
            let payload = self.payload.min(bytes.len() - at);
            self.payload -= payload;
            let header = (HEADER - self.have).min(bytes.len() - at - payload);
            let from = at + payload;
            self.header[self.have..self.have + header].copy_from_slice(&bytes[from..from + header]);
            self.have += header;
            let mut keep = payload + header;
            if self.have == HEADER {
                let [a, b, c, kind, flags, ..] = self.header;
                self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                found(sort(kind, flags, self.payload));
                if header == HEADER && is_nothing(kind, flags, self.payload) {
                    keep -= HEADER;
                }
                (self.have, self.passed) = (0, 0);
            } else if self.passed > 0 {
                self.passed = self.have;
            } else {
                keep -= header;
            }
            if kept != at {
                bytes.copy_within(at..at + keep, kept);
            }
            (at, kept) = (at + payload + header, kept + keep);
        }
        kept
    }

    /// Puts what is held back of a header in front of the next bytes, or lets it
    /// go on where there is no room for a whole one. Returns how much is in front.
    fn put_back(&mut self, buffer: &mut ReadBuf<'_>) -> Result<usize, ()> {
        if self.have == self.passed {
            return Ok(0);
        }
        if self.passed == 0 && buffer.remaining() > HEADER {
            buffer.put_slice(&self.header[..self.have]);
            return Ok(std::mem::take(&mut self.have));
        }
        let length = buffer.remaining().min(self.have - self.passed);
        buffer.put_slice(&self.header[self.passed..self.passed + length]);
        self.passed += length;
        Err(())
    }
}

/// Whether it is DATA that neither carries nor ends anything.
fn is_nothing(kind: u8, flags: u8, length: usize) -> bool {
    const END_STREAM: u8 = 0x1;
    const PADDED: u8 = 0x8;
    kind == 0x0 && length == 0 && flags & (END_STREAM | PADDED) == 0
}

fn sort(kind: u8, flags: u8, length: usize) -> Sort {
    match kind {
        0x0 if is_nothing(kind, flags, length) => Sort::Control,
        0x3 => Sort::Reset,
        // PRIORITY, SETTINGS, PING, WINDOW_UPDATE, and types that nobody knows.
        0x2 | 0x4 | 0x6 | 0x8 | 0xa.. => Sort::Control,
        _ => Sort::Useful,
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.exceeded.get().is_some() {
            // Reads no more: what is left is told goodbye and closed.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        loop {
            let Ok(back) = self.scanner.put_back(buffer) else { return Poll::Ready(Ok(())) };
            let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
            let read = buffer.filled().len() - before - back;
            if read == 0 {
                self.scanner.have += back;
                match outcome {
                    // The stream has ended within a header.
                    Poll::Ready(Ok(())) => self.scanner.passed += back,
                    _ => buffer.set_filled(before),
                }
                return outcome;
            }
            let kept = self.count(&mut buffer.filled_mut()[before..]);
            buffer.set_filled(before + kept);
            // Nothing at all would be the end of the stream.
            if kept > 0 {
                return Poll::Ready(Ok(()));
            }
            if self.exceeded.get().is_some() {
                return Poll::Pending;
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.earn(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.earn(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let mut wire = vec![b'x'; 24];
        wire.extend(frame(4, 0, &[0; 12]));
        wire.extend(frame(1, 4, &[0x82; 40]));
        wire.extend(frame(0, 0, &[]));
        wire.extend(frame(0, 1, &[]));
        wire.extend(frame(3, 0, &[0; 4]));
        for piece in 1..wire.len() {
            let mut scanner = Scanner { preface: 24, ..Scanner::default() };
            let mut counts = [0; 3];
            for bytes in wire.clone().chunks_mut(piece) {
                scanner.scan(bytes, |sort| counts[sort as usize] += 1);
            }
            assert_eq!(counts, [2, 2, 1], "by {piece}");
        }
    }

    #[tokio::test]
    async fn data_that_is_nothing_goes_no_further_however_the_bytes_are_cut() {
        let nothing = frame(0, 0, &[]);
        let (mut wire, mut wanted) = (Vec::new(), Vec::new());
        for length in [0, 1, 8, 9, 10, 500] {
            for part in [frame(1, 4, &[0x82; 5]), frame(0, 0, &vec![0; length]), frame(0, 1, &[])] {
                wire.extend_from_slice(&nothing);
                wire.extend_from_slice(&part);
                wire.extend(nothing.repeat(3));
                if part != nothing {
                    wanted.extend(part);
                }
            }
        }
        // The last header is cut off.
        wire.extend_from_slice(&nothing[..4]);
        wanted.extend_from_slice(&nothing[..4]);
        for piece in 1..=wire.len() {
            for room in [12, 16 * 1024] {
                let mut reader = in_pieces(&wire, piece);
                let mut got = Vec::new();
                loop {
                    let mut bytes = vec![0; room];
                    let read = tokio::io::AsyncReadExt::read(&mut reader, &mut bytes).await.unwrap();
                    got.extend_from_slice(&bytes[..read]);
                    if read == 0 {
                        break;
                    }
                }
                assert_eq!(got, wanted, "by {piece}, room for {room}");
            }
        }
    }

    /// What a peer sends in pieces of this size.
    fn in_pieces(wire: &[u8], piece: usize) -> Counted<impl AsyncRead + AsyncWrite + Unpin> {
        let (mut near, far) = tokio::io::duplex(piece);
        let wire = wire.to_vec();
        tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut near, &wire).await });
        Counted::server(far)
    }

    #[test]
    fn a_flood_is_told_from_traffic() {
        let allowed = Allowed { control: 10, resets: 5 };
        let (mut counted, exceeded) = Counted::client(tokio::io::empty(), allowed);
        counted.count(&mut [b'x'; 24]);
        for _ in 0..100 {
            counted.count(&mut frame(1, 5, &[0x82]));
            counted.count(&mut frame(8, 0, &[0; 4]));
        }
        assert_eq!(exceeded.get(), None, "each call brings a window update");
        for _ in 0..6 {
            counted.count(&mut frame(3, 0, &[0; 4]));
        }
        assert_eq!(exceeded.get(), Some("resets"));
        let (mut counted, exceeded) = Counted::client(tokio::io::empty(), allowed);
        counted.count(&mut [b'x'; 24]);
        for _ in 0..1_000 {
            exceeded.earn_reset();
            counted.count(&mut frame(3, 0, &[0; 4]));
        }
        assert_eq!(exceeded.get(), None, "calls that were waited for may be given up");
        let (mut counted, exceeded) = Counted::client(tokio::io::empty(), allowed);
        counted.count(&mut [b'x'; 24]);
        for _ in 0..11 {
            counted.count(&mut frame(6, 0, &[0; 8]));
        }
        assert_eq!(exceeded.get(), Some("control_frames"));
    }
}
