//! tokio-tungstenite as client and as server.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::{accept_async_with_config, connect_async_with_config};

/// For one client.
const LIMIT: Duration = Duration::from_secs(120);
const LARGEST: usize = 1 << 20;

/// An echo on a thread of its own, until it is dropped.
pub struct Server {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Mostly small, now and then up to 1 MiB.
fn size(number: usize) -> usize {
    match number {
        _ if number % 997 == 211 => LARGEST,
        _ if number % 101 == 50 => 65_500 + number % 100,
        _ if number.is_multiple_of(13) => 0,
        _ if number % 10 == 5 => 100 + number % 60,
        _ => number * 37 % 125,
    }
}

/// Whether a message is text, and its bytes.
fn message(number: usize) -> (bool, Vec<u8>) {
    let length = size(number);
    if number.is_multiple_of(2) {
        return (false, (0..length).map(|at| ((number + at) % 256 * 7) as u8).collect());
    }
    let mut text: Vec<u8> = (0..length).map(|at| b'a' + ((number + at) % 26) as u8).collect();
    if length >= 3 {
        text[length - 3..].copy_from_slice("→".as_bytes());
    }
    (true, text)
}

/// In one frame or in several.
fn frames(text: bool, bytes: &[u8], parts: bool) -> Vec<Message> {
    if !parts {
        return vec![match text {
            true => Message::text(std::str::from_utf8(bytes).unwrap().to_owned()),
            false => Message::binary(bytes.to_vec()),
        }];
    }
    let third = bytes.len() / 3;
    let kind = if text { Data::Text } else { Data::Binary };
    let parts = [
        (kind, &bytes[..third]),
        (Data::Continue, &bytes[third..2 * third]),
        (Data::Continue, &bytes[2 * third..]),
    ];
    let last = parts.len() - 1;
    let frame = |(at, (kind, part)): (usize, (Data, &[u8]))| {
        Message::Frame(Frame::message(part.to_vec(), OpCode::Data(kind), at == last))
    };
    parts.into_iter().enumerate().map(frame).collect()
}

fn is_text(message: &Message) -> bool {
    matches!(message, Message::Text(_))
}

fn config() -> Option<WebSocketConfig> {
    Some(WebSocketConfig::default().max_message_size(Some(LARGEST)))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

impl Server {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let serve = async {
                    while let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(echo(stream));
                    }
                };
                tokio::select! { () = serve => {}, _ = stopped => {} }
            });
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn echo(stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let Ok(mut socket) = accept_async_with_config(stream, config()).await else { return };
    let mut number = 0;
    while let Some(Ok(message)) = socket.next().await {
        if !message.is_text() && !message.is_binary() {
            // A close is answered by the library, as a ping is.
            continue;
        }
        for frame in frames(is_text(&message), &message.into_data(), number % 5 == 2) {
            if socket.send(frame).await.is_err() {
                return;
            }
        }
        if number % 50 == 10 && socket.send(Message::Ping("?".into())).await.is_err() {
            return;
        }
        number += 1;
    }
}

/// Sends the messages and compares what comes back.
pub fn call(url: &str, count: usize) -> Result<(), String> {
    runtime().block_on(async {
        tokio::time::timeout(LIMIT, exchange(url, count)).await.map_err(|_| "not over in time".to_owned())?
    })
}

async fn exchange(url: &str, count: usize) -> Result<(), String> {
    let connected = connect_async_with_config(url, config(), true).await;
    let (mut send, mut receive) = connected.map_err(|error| error.to_string())?.0.split();
    let sending = tokio::spawn(async move {
        for number in 0..count {
            let (text, bytes) = message(number);
            for frame in frames(text, &bytes, number % 7 == 3) {
                send.send(frame).await.map_err(|error| format!("message {number} was not sent: {error}"))?;
            }
            if number % 50 == 25 {
                let ping = Message::Ping(number.to_string().into());
                send.send(ping).await.map_err(|error| error.to_string())?;
            }
        }
        Ok::<_, String>(send)
    });
    let (mut back, mut pongs) = (0, Vec::new());
    let pings: Vec<_> =
        (0..count).filter(|number| number % 50 == 25).map(|number| number.to_string()).collect();
    while back < count || pongs.len() < pings.len() {
        match receive.next().await {
            Some(Ok(Message::Pong(of))) => pongs.push(String::from_utf8_lossy(&of).into_owned()),
            Some(Ok(Message::Ping(_))) => {}
            Some(Ok(message)) if message.is_text() || message.is_binary() => {
                let (text, bytes) = self::message(back);
                if (is_text(&message), &message.into_data()[..]) != (text, &bytes[..]) {
                    return Err(format!("message {back} of {} bytes came back changed", bytes.len()));
                }
                back += 1;
            }
            other => return Err(format!("after {back} messages: {other:?}")),
        }
    }
    if pongs != pings {
        return Err(format!("pongs for {pongs:?}"));
    }
    let mut send = sending.await.map_err(|error| error.to_string())??;
    let close = CloseFrame { code: CloseCode::Normal, reason: "done".into() };
    send.send(Message::Close(Some(close))).await.map_err(|error| error.to_string())?;
    loop {
        match receive.next().await {
            Some(Ok(Message::Close(Some(close)))) if close.code == CloseCode::Normal => return Ok(()),
            Some(Ok(Message::Ping(_))) => {}
            other => return Err(format!("no proper close: {other:?}")),
        }
    }
}
