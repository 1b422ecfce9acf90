//! The pipe on which the joiner tells the keeper how far it came. It closes when the helper is executed.
//!
//! A message is twelve bytes, so a pipe keeps it whole: three little-endian numbers, the first saying which message.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use upcall_helpers::wire::Stage;

use crate::failure::Failure;

/// Bytes of one message.
pub(crate) const LENGTH: usize = 12;

const FAILED: u32 = 1;
const EXECUTING: u32 = 2;

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// A step failed.
    Failed(Failure),
    /// The next thing is the exec. A pipe that closes without this belonged to a process that died before.
    Executing,
}

impl Message {
    pub(crate) fn decode(bytes: [u8; LENGTH]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<4>();
        match words
            .iter()
            .map(|word| u32::from_le_bytes(*word))
            .collect::<Vec<_>>()
            .as_slice()
        {
            [EXECUTING, 0, 0] => Some(Self::Executing),
            [FAILED, stage, errno] => Some(Self::Failed(Failure {
                stage: Stage::from_code(u8::try_from(*stage).ok()?)?,
                errno: Errno::from_raw(i32::try_from(*errno).ok()?),
            })),
            _ => None,
        }
    }
}

/// The end that children write to.
#[derive(Debug)]
pub(crate) struct Sender(File);

impl Sender {
    pub(crate) fn new(pipe: OwnedFd) -> Self {
        Self(File::from(pipe))
    }

    pub(crate) fn file(&self) -> &File {
        &self.0
    }

    /// Sends one message; a keeper that is gone needs none.
    pub(crate) fn send(&self, message: Message) {
        let words = match message {
            Message::Executing => [EXECUTING, 0, 0],
            Message::Failed(failure) => [
                FAILED,
                failure.stage as u32,
                (failure.errno as i32).unsigned_abs(),
            ],
        };
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        drop((&self.0).write_all(&bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_way() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let sender = Sender::new(write);
        let failure = Failure {
            stage: Stage::Join,
            errno: Errno::ESRCH,
        };
        for message in [Message::Failed(failure), Message::Executing] {
            sender.send(message);
            let mut bytes = [0; LENGTH];
            assert_eq!(nix::unistd::read(&read, &mut bytes), Ok(LENGTH));
            assert_eq!(Message::decode(bytes), Some(message));
        }
        assert_eq!(Message::decode([7; LENGTH]), None);
    }
}
