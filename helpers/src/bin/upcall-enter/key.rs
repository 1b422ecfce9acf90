//! One launch for a key, as a child of the shim that the kernel started: only that process and its children can answer,
//! and the kernel waits for it. The shim sends the launch over our standard input and reads our reports from there; it
//! leaves when the key is answered, and we when the helper's cgroup is gone.

use std::convert::Infallible;
use std::os::fd::AsFd;

use nix::errno::Errno;
use upcall_helpers::seqpacket;
use upcall_helpers::sys::keys;
use upcall_helpers::wire::{Launch, Stage, Task};

use crate::board::Board;
use crate::descriptors::Pipes;
use crate::failure::{At, Failure};
use crate::keeper;
use crate::launcher::{self, Context};

/// Does it, and ends this process; it returns only where there is nothing that could be done.
///
/// # Errors
/// What came is no launch for a key.
pub(crate) fn run() -> Result<(), Failure> {
    match serve()? {}
}

fn serve() -> Result<Infallible, Failure> {
    launcher::put_off()?;
    let socket = launcher::socket().at(Stage::Plan)?;
    let received = seqpacket::receive(socket.as_fd()).at(Stage::Plan)?;
    let launch = Launch::decode(&received.record, received.fds.len());
    let launch = launch.map_err(|_| Errno::EBADMSG).at(Stage::Plan)?;
    let Task::Enter(enter) = &launch.task else {
        return Err(Errno::EINVAL).at(Stage::Plan);
    };
    let key = enter.key.ok_or(Errno::EINVAL).at(Stage::Plan)?;
    let prepared = if key.authority {
        // The session keyring stays: in it is what the authority comes from.
        Pipes::new()
    } else {
        keys::renounce_authority().at(Stage::Authority)?;
        keeper::prepare()
    };
    let context = Context::new(socket.as_fd(), key.authority)?;
    let board = Board::new().at(Stage::Plan)?;
    let (_, row) = board.free(|_| false).ok_or(Errno::EAGAIN).at(Stage::Plan)?;
    row.take(&launch.id, launch.slot);
    keeper::keep(&context, &launch, enter, received.fds, prepared, row)
}
