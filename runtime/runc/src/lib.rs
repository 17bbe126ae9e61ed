//! create, start, exec, kill, delete, checkpoint through an OCI runtime program.
