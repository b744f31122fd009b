//! Makes the types and the gRPC parts of `shop.proto`, for the feature `full`;
//! protox needs no `protoc`.

fn main() {
    #[cfg(feature = "full")]
    {
        println!("cargo::rerun-if-changed=../proto/shop.proto");
        let files = protox::compile(["shop.proto"], ["../proto"]).expect("shop.proto is well-formed");
        tonic_prost_build::compile_fds(files).expect("OUT_DIR can be written");
    }
}
