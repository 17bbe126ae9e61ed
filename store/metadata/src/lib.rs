//! Namespaced records, leases, references and GC marking over bolt.
