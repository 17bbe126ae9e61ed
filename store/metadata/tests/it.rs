//! Records of meta.db: their rules, their bytes, the collector, and containerd's own programs.
#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

mod it {
    mod collect;
    mod golden;
    mod model;
    mod peers;
    mod rules;
    mod support;
}
