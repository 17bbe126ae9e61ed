//! Mount lists to kernel state and back; idmaps; detaching without stalling callers.
