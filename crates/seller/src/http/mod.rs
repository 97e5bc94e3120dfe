//! The tower layer: everything that knows an HTTP library.

mod address;
mod body;
mod caching;
pub(crate) mod cors;
mod fingerprint;
mod identified;
pub(crate) mod layer;
mod overrides;
mod responses;
mod rules;
mod service;
mod stored;
mod streaming;
mod undelivered;
mod unread_body;
