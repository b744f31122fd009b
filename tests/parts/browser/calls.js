// Calls of the shop's users with the clients of two projects. What came of
// each is a line of text, for the test to compare.
import { createFileRegistry, create, fromBinary, toBinary, toJson } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { createClient, ConnectError } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import grpcWeb from "grpc-web";
import descriptor from "../../../config/policies/shop.pb";

const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, descriptor));
const users = registry.getService("shop.v1.Users");
const schema = (name) => registry.getMessage(`shop.v1.${name}`);
const shown = (name, message) => JSON.stringify(toJson(schema(name), message, { registry }));

// The value of the header that the service sends, and of the one it ends with.
const seen = (headers, trailers) => `${headers.get("x-meta")} ${trailers.get("x-late")}`;

export async function connect(baseUrl, say) {
  const client = createClient(users, createGrpcWebTransport({ baseUrl }));
  let meta = "";
  const options = {
    headers: { "x-echo": "e" },
    onHeader: (headers) => { meta = headers.get("x-meta"); },
    onTrailer: (trailers) => { meta += ` ${trailers.get("x-late")}`; },
  };
  say(`connect unary ${shown("User", await client.get({ id: 7n }, options))} ${meta}`);
  const large = "é".repeat(500_000);
  const echoed = await client.everything({ stringField: large });
  say(`connect large ${echoed.stringField === large}`);
  const began = Date.now();
  const times = [];
  for await (const user of client.watch({ count: 3, pause: 300 })) {
    times.push(Date.now() - began);
    say(`connect watch ${shown("User", user)}`);
  }
  say(`connect streamed ${times[2] - times[0] > 400 && times[0] < 500 + 300}`);
  try {
    for await (const user of client.watch({ count: 1, fail: 8 })) {
      say(`connect before ${user.id}`);
    }
  } catch (error) {
    say(`connect failed ${ConnectError.from(error).code} ${ConnectError.from(error).rawMessage}`);
  }
  for (const id of [404n, 405n]) {
    try {
      await client.get({ id, fail: 5 });
    } catch (error) {
      const failed = ConnectError.from(error);
      const details = failed.findDetails(registry.getMessage("google.rpc.BadRequest") ?? violations);
      say(`connect error ${failed.code} ${failed.rawMessage} ${details.map((d) => d.fieldViolations[0].field)}`);
    }
  }
}

// The shop's descriptor does not hold the types of details.
import rpc from "../../../src/policy/transcode/rpc.pb";
const violations = createFileRegistry(fromBinary(FileDescriptorSetSchema, rpc)).getMessage("google.rpc.BadRequest");

const method = (name, kind, input, output) =>
  new grpcWeb.MethodDescriptor(
    `/shop.v1.Users/${name}`, kind, Object, Object,
    (message) => toBinary(schema(input), message),
    (bytes) => fromBinary(schema(output), new Uint8Array(bytes)),
  );

export async function official(baseUrl, format, say) {
  const client = new grpcWeb.GrpcWebClientBase({ format });
  const url = (name) => `${baseUrl}/shop.v1.Users/${name}`;
  const unary = (name, input, output, message) =>
    new Promise((resolve) => {
      const info = method(name, grpcWeb.MethodType.UNARY, input, output);
      let status = null;
      const call = client.rpcCall(url(name), create(schema(input), message), { "x-echo": "e" }, info, (error, got) => {
        resolve(error ? `error ${error.code} ${error.message}` : got);
      });
      call.on("status", (value) => { status = value; });
    });
  const stream = (message) =>
    new Promise((resolve) => {
      const info = method("Watch", grpcWeb.MethodType.SERVER_STREAMING, "WatchRequest", "User");
      const began = Date.now();
      const got = [];
      const call = client.serverStreaming(url("Watch"), create(schema("WatchRequest"), message), {}, info);
      call.on("data", (user) => got.push({ user: shown("User", user), at: Date.now() - began }));
      call.on("error", (error) => resolve({ got, end: `${error.code} ${error.message}` }));
      call.on("end", () => resolve({ got, end: "end" }));
    });
  say(`${format} unary ${shown("User", await unary("Get", "GetRequest", "User", { id: 7n }))}`);
  say(`${format} ${await unary("Get", "GetRequest", "User", { id: 7n, fail: 5 })}`);
  const large = "é".repeat(500_000);
  const echoed = await unary("Everything", "All", "All", { stringField: large });
  say(`${format} large ${echoed.stringField === large}`);
  // Only the text form can be read before its end by XMLHttpRequest.
  if (format === "text") {
    const { got, end } = await stream({ count: 3, pause: 300 });
    say(`${format} watch ${got.map((one) => one.user)} ${end}`);
    say(`${format} streamed ${got[2].at - got[0].at > 400}`);
    const failed = await stream({ count: 1, fail: 8 });
    say(`${format} watch ${failed.got.map((one) => one.user)} ${failed.end}`);
  }
}
