//! The wire types that a shim needs: messages, ttrpc services, type URLs.
