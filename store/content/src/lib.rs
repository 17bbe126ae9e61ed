//! The content store trait, its test suite, the local store, the namespaced store, the proxy.
