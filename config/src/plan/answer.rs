//! `answer`: what a key gets without anybody being asked.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A payload of the admin's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub(crate) payload: Payload,
    pub(crate) ttl: Duration,
}

/// Where a payload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Here.
    Text(Arc<str>),
    /// In this file, which is read when it is wanted.
    File(Arc<Path>),
}

impl Answer {
    /// What the key gets.
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// How long it is good for.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }
}
