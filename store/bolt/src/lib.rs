//! bbolt's file format: read, write, check, salvage.
