//! upcallctl as people run it: the finished command, in a pipe and on a terminal, with and without a daemon.
//!
//! No test here touches the kernel's own settings: files stand in for them.

#[cfg(test)]
#[path = "../../src/bin/upcallctl/given.rs"]
mod given;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod cores;
#[cfg(test)]
mod daemon;
#[cfg(test)]
mod debug;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod hooks;
#[cfg(test)]
mod modules;
#[cfg(test)]
mod records;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod stack;
#[cfg(test)]
mod terminal;
#[cfg(test)]
mod together;
