//! The service of `../grpc/interop.proto`, for messages that are written by
//! hand: no compiler of protos is needed.

use tonic_build::manual::{Builder, Method, Service};

fn method(name: &str, route: &str, input: &str, output: &str) -> tonic_build::manual::MethodBuilder {
    Method::builder()
        .name(name)
        .route_name(route)
        .input_type(format!("crate::messages::{input}"))
        .output_type(format!("crate::messages::{output}"))
        .codec_path("tonic_prost::ProstCodec")
}

fn main() {
    let test = Service::builder()
        .name("TestService")
        .package("grpc.testing")
        .method(method("empty_call", "EmptyCall", "Empty", "Empty").build())
        .method(method("unary_call", "UnaryCall", "SimpleRequest", "SimpleResponse").build())
        .method(
            method("output_call", "StreamingOutputCall", "OutputRequest", "OutputResponse")
                .server_streaming()
                .build(),
        )
        .method(
            method("input_call", "StreamingInputCall", "InputRequest", "InputResponse")
                .client_streaming()
                .build(),
        )
        .method(
            method("duplex_call", "FullDuplexCall", "OutputRequest", "OutputResponse")
                .client_streaming()
                .server_streaming()
                .build(),
        )
        .build();
    // What the test service has not: called, never served.
    let missing = |service: &str| {
        let call = method("unimplemented_call", "UnimplementedCall", "Empty", "Empty").build();
        Service::builder().name(service).package("grpc.testing").method(call).build()
    };
    Builder::new().compile(&[test]);
    let only_client = || Builder::new().build_server(false);
    only_client().compile(&[missing("UnimplementedService")]);
    // In a file of its own name: the same service with a method that no server has.
    let out = std::env::var("OUT_DIR").expect("cargo sets it");
    let whole = std::fs::read_to_string(format!("{out}/grpc.testing.UnimplementedService.rs"));
    let code = whole.expect("written a moment ago").replace("UnimplementedService", "TestService");
    let code = code.replace("unimplemented_service_client", "unimplemented_method_client");
    std::fs::write(format!("{out}/unimplemented_method.rs"), code).expect("OUT_DIR takes files");
}
