//! The lines of all services on one terminal: aligned, coloured by service,
//! whole, and bounded.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Longer lines are broken.
const MAX_LINE: usize = 8 * 1024;
/// A line without an end is shown when nothing follows for so long.
const PARTIAL: Duration = Duration::from_millis(300);
/// Lines that are kept for the report of a crash.
const KEPT: usize = 12;
/// Of the terminal's own palette, so that they fit its background.
const COLORS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// Where lines go.
pub struct Sink {
    state: Mutex<State>,
    color: bool,
}

struct State {
    out: Box<dyn Write + Send>,
    names: Vec<String>,
    width: usize,
}

/// The last lines of one service.
#[derive(Clone, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Sink {
    /// Writes to `out`.
    pub fn new(out: Box<dyn Write + Send>, color: bool) -> Self {
        let state = State { out, names: Vec::new(), width: "pillion".len() };
        Self { state: Mutex::new(state), color }
    }

    /// Makes room for the longest name.
    pub(super) fn align<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let mut state = self.lock();
        state.names = names.map(str::to_owned).collect();
        let longest = state.names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        state.width = state.width.max(longest);
    }

    /// One line of a service.
    pub(super) fn line(&self, name: &str, text: &str) {
        let mut state = self.lock();
        let color = state.names.iter().position(|known| known == name).map(|at| COLORS[at % COLORS.len()]);
        let width = state.width;
        let prefix = match (self.color, color) {
            (true, Some(color)) => format!("\x1b[{color}m{name:<width$} │\x1b[0m "),
            (true, None) => format!("\x1b[1m{name:<width$} │\x1b[0m "),
            (false, _) => format!("{name:<width$} | "),
        };
        // A terminal that has gone away is no reason to end the services.
        let _ = state.out.write_all(format!("{prefix}{text}\n").as_bytes());
        let _ = state.out.flush();
    }

    /// One line of our own.
    pub fn note(&self, text: &str) {
        text.lines().for_each(|line| self.line("pillion", line));
    }

    /// Lines of our own without a prefix.
    pub fn block(&self, text: &str) {
        let mut state = self.lock();
        let _ = state.out.write_all(text.as_bytes());
        let _ = state.out.flush();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tail {
    fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    /// Takes all of them.
    pub(super) fn take(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

/// Passes `output` on line by line until it ends.
pub(super) async fn follow<R: AsyncRead + Unpin>(mut output: R, name: &str, sink: &Sink, tail: &Tail) {
    let mut line = Vec::new();
    let mut chunk = vec![0; 4096];
    loop {
        let read = match line.is_empty() {
            true => output.read(&mut chunk).await,
            false => match tokio::time::timeout(PARTIAL, output.read(&mut chunk)).await {
                Ok(read) => read,
                Err(_) => {
                    show(&mut line, name, sink, tail);
                    continue;
                }
            },
        };
        let read = match read {
            Ok(0) | Err(_) => break,
            Ok(read) => &chunk[..read],
        };
        for &byte in read {
            if byte == b'\n' || line.len() >= MAX_LINE {
                show(&mut line, name, sink, tail);
            }
            if byte != b'\n' {
                line.push(byte);
            }
        }
    }
    if !line.is_empty() {
        show(&mut line, name, sink, tail);
    }
}

/// A carriage return would write over the prefix.
fn show(line: &mut Vec<u8>, name: &str, sink: &Sink, tail: &Tail) {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r').replace('\r', "␍");
    sink.line(name, &text);
    tail.push(&text);
    line.clear();
}

/// Log lines of the sidecars, as lines of `pillion`.
pub struct Own(pub Arc<Sink>);

impl Write for Own {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.note(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn sink(color: bool) -> (Sink, impl Fn() -> String) {
        let paper = Paper::default();
        let sink = Sink::new(Box::new(paper.clone()), color);
        sink.align(["users", "recommendations"].into_iter());
        (sink, move || String::from_utf8(paper.0.lock().unwrap().clone()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn lines_come_whole_aligned_and_bounded() {
        let (sink, read) = sink(false);
        let (tail, long) = (Tail::default(), "x".repeat(MAX_LINE + 3));
        let output = format!("one\r\n\ntwo\r50%\n{long}\nlast");
        follow(output.as_bytes(), "users", &sink, &tail).await;
        let expected = format!(
            "users           | one\nusers           | \nusers           | two␍50%\n\
             users           | {}\nusers           | xxx\nusers           | last\n",
            "x".repeat(MAX_LINE)
        );
        assert_eq!(read(), expected);
        assert_eq!(tail.take().last().map(String::as_str), Some("last"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_prompt_is_shown_before_its_line_ends() {
        let (sink, read) = sink(false);
        let (ours, mut theirs) = tokio::io::duplex(64);
        let tail = Tail::default();
        let follow = follow(ours, "users", &sink, &tail);
        let write = async {
            tokio::io::AsyncWriteExt::write_all(&mut theirs, b"ready? ").await.unwrap();
            tokio::time::sleep(PARTIAL * 2).await;
            assert!(read().ends_with("| ready? \n"), "{}", read());
            drop(theirs);
        };
        tokio::join!(follow, write);
    }

    #[test]
    fn each_service_has_its_colour() {
        let (sink, read) = sink(true);
        sink.line("users", "a");
        sink.line("recommendations", "b");
        sink.note("c");
        let lines: Vec<String> = read().lines().map(str::to_owned).collect();
        assert!(lines[0].starts_with("\x1b[36musers") && lines[1].starts_with("\x1b[33mrecom"), "{lines:?}");
        assert!(lines[2].starts_with("\x1b[1mpillion"), "{lines:?}");
    }
}
