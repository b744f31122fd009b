// A WebSocket echo over HTTP/2 (RFC 8441) with Node's own HTTP/2 and a small
// framing of this file's own: see README.md.
//
//	server            prints "listening ADDRESS" and echoes
//	client URL COUNT  sends the messages and compares what comes back

import http2 from "node:http2";
import { randomBytes } from "node:crypto";
import { message, same } from "./messages.mjs";

const TEXT = 1;
const BINARY = 2;
const CLOSE = 8;
const PING = 9;
const PONG = 10;

/** A frame; with a mask where a client sends it. */
function frame(opcode, payload, { final = true, masked = false } = {}) {
  const { length } = payload;
  const head = [(final ? 0x80 : 0) | opcode];
  if (length < 126) head.push(length);
  else if (length < 65536) head.push(126, length >> 8, length & 255);
  else head.push(127, 0, 0, 0, 0, length >>> 24, (length >> 16) & 255, (length >> 8) & 255, length & 255);
  const body = Buffer.from(payload);
  if (!masked) return Buffer.concat([Buffer.from(head), body]);
  head[1] |= 0x80;
  const mask = randomBytes(4);
  for (let at = 0; at < length; at++) body[at] ^= mask[at & 3];
  return Buffer.concat([Buffer.from(head), mask, body]);
}

/** Calls `take(opcode, payload, final)` for each frame of a stream. */
function read(stream, masked, take) {
  let parts = [];
  let have = 0;
  let wanted = 2;
  stream.on("data", (chunk) => {
    parts.push(chunk);
    have += chunk.length;
    while (have >= wanted) {
      const bytes = parts.length === 1 ? parts[0] : Buffer.concat(parts);
      parts = [bytes];
      const short = bytes[1] & 0x7f;
      if (((bytes[1] & 0x80) !== 0) !== masked) throw new Error("a mask where none belongs, or none");
      let start = 2 + (short === 126 ? 2 : short === 127 ? 8 : 0);
      if (have < start) {
        wanted = start;
        continue;
      }
      const length = short === 126 ? bytes.readUInt16BE(2) : short === 127 ? Number(bytes.readBigUInt64BE(2)) : short;
      const mask = masked ? bytes.subarray(start, start + 4) : null;
      start += masked ? 4 : 0;
      wanted = start + length;
      if (have < wanted) continue;
      const payload = Buffer.from(bytes.subarray(start, wanted));
      if (mask) for (let at = 0; at < length; at++) payload[at] ^= mask[at & 3];
      parts = [bytes.subarray(wanted)];
      have -= wanted;
      wanted = 2;
      take(bytes[0] & 15, payload, (bytes[0] & 0x80) !== 0);
    }
  });
}

function serve() {
  const server = http2.createServer({ settings: { enableConnectProtocol: true } });
  server.on("stream", (stream, headers) => {
    stream.on("error", () => {});
    if (headers[":method"] !== "CONNECT" || headers[":protocol"] !== "websocket") {
      stream.respond({ ":status": 400 }, { endStream: true });
      return;
    }
    stream.respond({ ":status": 200 });
    let number = 0;
    read(stream, true, (opcode, payload, final) => {
      if (opcode === PONG) return;
      stream.write(frame(opcode === PING ? PONG : opcode, payload, { final }));
      if (opcode === CLOSE) stream.end();
      else if (opcode < CLOSE && final && number++ % 50 === 10) stream.write(frame(PING, Buffer.from("?")));
    });
  });
  server.listen(0, "127.0.0.1", () => console.log(`listening 127.0.0.1:${server.address().port}`));
}

function call(url, count) {
  const { host, pathname, protocol } = new URL(url);
  if (protocol !== "http:") throw new Error("http: only");
  const session = http2.connect(url);
  session.once("remoteSettings", (settings) => {
    if (!settings.enableConnectProtocol) fail("extended CONNECT is not announced");
    const stream = session.request({
      ":method": "CONNECT",
      ":protocol": "websocket",
      ":scheme": "http",
      ":authority": process.env.AUTHORITY ?? host,
      ":path": pathname,
      "sec-websocket-version": "13",
    });
    stream.on("response", (headers) => {
      if (headers[":status"] !== 200) fail(`answered with ${headers[":status"]}`);
      for (let number = 0; number < count; number++) send(stream, number);
    });
    receive(stream, count, session);
  });
}

function send(stream, number) {
  const { text, bytes } = message(number);
  const kind = text ? TEXT : BINARY;
  if (number % 7 === 3) {
    const third = Math.floor(bytes.length / 3);
    stream.write(frame(kind, bytes.subarray(0, third), { final: false, masked: true }));
    stream.write(frame(0, bytes.subarray(third, 2 * third), { final: false, masked: true }));
    stream.write(frame(0, bytes.subarray(2 * third), { masked: true }));
  } else {
    stream.write(frame(kind, bytes, { masked: true }));
  }
  if (number % 50 === 25) stream.write(frame(PING, Buffer.from(`${number}`), { masked: true }));
}

function receive(stream, count, session) {
  let back = 0;
  let pongs = 0;
  let kind = 0;
  let parts = [];
  let closed = false;
  read(stream, false, (opcode, payload, final) => {
    if (opcode === PING) return stream.write(frame(PONG, payload, { masked: true }));
    if (opcode === PONG) return (pongs += 1);
    if (opcode === CLOSE) return (closed = payload.readUInt16BE(0) === 1000);
    kind = opcode || kind;
    parts.push(payload);
    if (!final) return;
    const wanted = message(back);
    if (kind !== (wanted.text ? TEXT : BINARY) || !same(Buffer.concat(parts), wanted.bytes)) {
      fail(`message ${back} came back changed`);
    }
    parts = [];
    back += 1;
    if (back === count) stream.write(frame(CLOSE, Buffer.from([3, 232]), { masked: true }));
  });
  stream.on("end", () => stream.end());
  stream.on("close", () => {
    const pings = Math.floor((count + 24) / 50);
    if (back !== count || pongs !== pings || !closed) fail(`${back} messages, ${pongs} pongs, closed: ${closed}`);
    console.log(`ok ${count}, ${pings} pings`);
    session.close();
  });
}

function fail(why) {
  console.error(why);
  process.exit(1);
}

setTimeout(() => fail("not over in time"), 120_000).unref();
const [what, url, count] = process.argv.slice(2);
if (what === "server") serve();
else if (what === "client") call(url, Number(count));
else fail("server, or client URL COUNT");
