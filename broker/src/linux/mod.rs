//! Interfaces of the kernel as safe types. They know nothing of upcalls, rules or runtimes.

pub mod cgroup;
pub mod confine;
pub mod connector;
pub mod coresock;
pub mod devices;
pub mod keys;
pub mod memfd;
pub mod modreq;
pub mod namespace;
pub mod parse;
pub mod pidref;
pub mod procdir;
pub mod ringpage;
pub mod room;
pub mod secure;
pub mod seqpacket;
pub mod stranger;
pub mod sys;
