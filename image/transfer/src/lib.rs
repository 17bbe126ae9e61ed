//! The one pipeline for import, export, tag and unpack, with progress.
