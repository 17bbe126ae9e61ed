//! tar to folder tree and back, decompression, digests in the same pass.
