//! Clients as their users run them: programs with their own drivers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Sizes;
use crate::parts::installed;

/// A script of `clients/`, in Python. It says lines, and may be told lines.
pub struct Script {
    child: Child,
    said: Receiver<String>,
    reader: JoinHandle<()>,
    input: Option<ChildStdin>,
    /// What it is, for messages.
    name: String,
}

/// The longest that a program may take, beyond the time of a load.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a program to its end, which must be a good one, and gives what it wrote.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let begun = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(
            |error| panic!("{}: {error}: run tests/parts/install.sh", command.get_program().display()),
        );
    let mut outputs: [Box<dyn Read + Send>; 2] =
        [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
    let status = thread::scope(|scope| {
        let readers = outputs.each_mut().map(|output| scope.spawn(move || text_of(output)));
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if begun.elapsed() > PATIENCE {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            thread::sleep(Duration::from_millis(10));
        };
        let [output, errors] = readers.map(|reader| reader.join().unwrap());
        (status, output, errors)
    });
    match status {
        (Some(status), output, errors) if status.success() => output + &errors,
        (status, output, errors) => {
            panic!("{command:?} ended with {status:?} after {:?}:\n{output}{errors}", begun.elapsed())
        }
    }
}

fn text_of(output: &mut Box<dyn Read + Send>) -> String {
    let mut bytes = Vec::new();
    output.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs a script to its end and prints what it says.
#[track_caller]
pub fn python(name: &str, at: SocketAddr, words: &[&str]) {
    print!("{}", run(&mut script(name, at, words)));
}

/// Runs one of the clients in Go and prints what it says.
#[track_caller]
pub fn go(kind: &str, at: SocketAddr, sizes: &Sizes) {
    let mut command = Command::new(installed("bin/go-clients"));
    command.args([kind, &at.port().to_string(), &sizes.quiet.to_string(), &sizes.messages.to_string()]);
    print!("{}", run(&mut command));
}

fn script(name: &str, at: SocketAddr, words: &[&str]) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/databases/clients").join(name);
    let mut command = Command::new(installed("python/bin/python"));
    command.arg("-B").arg(path).arg(at.port().to_string()).args(words);
    command
}

impl Script {
    #[track_caller]
    pub fn start(name: &str, at: SocketAddr, words: &[&str]) -> Self {
        let mut command = script(name, at, words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        let (sender, said) = channel();
        let reader = thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let input = child.stdin.take();
        Self { child, said, reader, input, name: format!("{name} {words:?}") }
    }

    /// Its next line must begin with `word`; gives the rest.
    #[track_caller]
    pub fn says(&self, word: &str) -> String {
        let line = self.said.recv_timeout(PATIENCE);
        let rest = line.as_ref().ok().and_then(|line| line.strip_prefix(word));
        rest.unwrap_or_else(|| panic!("{} was to say `{word}` and said {line:?}", self.name))
            .trim()
            .to_owned()
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// It must end well.
    #[track_caller]
    pub fn ends(mut self) {
        drop(self.input.take());
        let status = self.child.wait().unwrap();
        self.reader.join().unwrap();
        assert!(status.success(), "{}: {status}", self.name);
    }
}
