//! The harness, the suites with real clients and the benches; never a dependency of the rings.
