//! The library of our shim: task service, stdio, reaping, exit records, bootstrap dialects.
