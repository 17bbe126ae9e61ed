//! Control groups v1 and v2: read metrics in one sweep, watch OOM and emptiness.
