//! Daemon side of tasks: start queue and workers, shims adopted and reconciled, exits, operations.
