//! The attacks that need the kernel's own call: they change core_pattern and put it back.

mod beside;
mod credentials;
mod keys;
