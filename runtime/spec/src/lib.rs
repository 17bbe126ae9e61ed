//! OCI runtime specs: built for clients, read by the runtime.
