//! The last tier of the overload: 8 calls at one time, 20 ms each, and those
//! that come meanwhile wait, whether or not anybody still waits for them.
//! `GET /slow/100` makes it 100 ms, `GET /count` says how many calls came.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

static FREE: Mutex<u32> = Mutex::new(8);
static FREED: Condvar = Condvar::new();
static MILLIS: AtomicU64 = AtomicU64::new(20);
static ASKED: AtomicU64 = AtomicU64::new(0);

fn work() {
    let mut free = FREED.wait_while(FREE.lock().unwrap(), |free| *free == 0).unwrap();
    *free -= 1;
    drop(free);
    std::thread::sleep(Duration::from_millis(MILLIS.load(SeqCst)));
    *FREE.lock().unwrap() += 1;
    FREED.notify_one();
}

fn serve(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(&stream);
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        let path = first.split(' ').nth(1).unwrap_or("/");
        let text = if let Some(millis) = path.strip_prefix("/slow/") {
            MILLIS.store(millis.parse().unwrap_or(20), SeqCst);
            "ok".to_owned()
        } else if path == "/count" {
            ASKED.load(SeqCst).to_string()
        } else {
            ASKED.fetch_add(1, SeqCst);
            work();
            "ok".to_owned()
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        (&stream).write_all(head.as_bytes())?;
    }
}

fn main() {
    let port = std::env::var("PORT").expect("PORT");
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).expect("a free port");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || serve(stream));
    }
}
