//! One thin module per containerd gRPC service: decode, call, encode.
