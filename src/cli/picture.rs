//! The picture of a host.
