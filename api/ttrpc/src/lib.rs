//! ttrpc: framing, client, server, streams, deadlines.
