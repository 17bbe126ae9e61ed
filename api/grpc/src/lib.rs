//! The gRPC services of containerd, with reflection and health.
