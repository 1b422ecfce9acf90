//! Questions to the daemon: varlink over its control socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use upcalld::control::{Call, INTERFACE, Status};
use upcalld::hooks::errno_name;

/// How long an answer may take: longer than the daemon needs to look at 256 files or 10,000 containers.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer; a record has some 10 KiB.
const ANSWER_MAX: usize = 64 << 20;

/// A connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    buffer: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// It did not come.
    #[error("{}", unanswered(.0))]
    Io(#[from] std::io::Error),
    /// It is not one of upcalld's.
    #[error("control.sock: not an answer of upcalld's: {0}; is it of another version?")]
    Garbled(#[from] serde_json::Error),
    /// The daemon will not answer.
    #[error("{message}")]
    Refused {
        /// The varlink error, without the interface's name.
        name: String,
        /// In words.
        message: String,
    },
}

fn unanswered(error: &std::io::Error) -> String {
    if is_late(error) {
        format!("upcalld did not answer within {} s", PATIENCE.as_secs())
    } else {
        format!("control.sock: {}", errno_name(error))
    }
}

fn is_late(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error.kind(), TimedOut | WouldBlock)
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    parameters: Value,
    error: Option<String>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// As connect(2).
    pub(crate) fn connect(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    /// Asks one question.
    pub(crate) fn call<T: DeserializeOwned>(
        &mut self,
        method: &str,
        parameters: Value,
    ) -> Result<T, CallError> {
        self.ask(method, parameters, false)?;
        Ok(serde_json::from_value(self.answer()?)?)
    }

    /// `GetStatus`.
    pub(crate) fn status(&mut self) -> Result<Status, CallError> {
        self.call("GetStatus", json!({}))
    }

    /// Starts watching: every record and every change of a hook from now on is an answer.
    pub(crate) fn watch(&mut self) -> Result<(), CallError> {
        self.ask("Watch", json!({}), true)?;
        // The first answer says that nothing is missed from now on.
        self.answer()?;
        self.stream.set_read_timeout(None)?;
        Ok(())
    }

    /// The next answer while watching.
    pub(crate) fn next(&mut self) -> Result<Value, CallError> {
        self.answer()
    }

    /// The next answer while watching, if it comes before `deadline`; an error of kind `WouldBlock` or `TimedOut` if
    /// not.
    pub(crate) fn next_before(&mut self, deadline: Instant) -> Result<Value, CallError> {
        let left = deadline.saturating_duration_since(Instant::now());
        // Zero would mean for ever.
        let left = left.max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left))?;
        self.answer()
    }

    fn ask(&mut self, method: &str, parameters: Value, more: bool) -> Result<(), CallError> {
        let call = Call {
            method: format!("{INTERFACE}.{method}"),
            parameters,
            more,
        };
        let mut bytes = serde_json::to_vec(&call)?;
        bytes.push(0);
        Ok(self.stream.write_all(&bytes)?)
    }

    fn answer(&mut self) -> Result<Value, CallError> {
        let document = self.document()?;
        let answer: Answer = serde_json::from_slice(&document)?;
        let Some(error) = answer.error else {
            return Ok(answer.parameters);
        };
        let prefix = format!("{INTERFACE}.");
        let name = error.strip_prefix(&prefix).unwrap_or(&error);
        let message = answer.parameters.get("message").and_then(Value::as_str);
        Err(CallError::Refused {
            name: name.to_owned(),
            message: message.unwrap_or(name).to_owned(),
        })
    }

    /// Bytes up to the next NUL.
    fn document(&mut self) -> std::io::Result<Vec<u8>> {
        let mut looked_at = 0;
        loop {
            let fresh = self.buffer.get(looked_at..).unwrap_or_default();
            if let Some(end) = fresh.iter().position(|byte| *byte == 0) {
                let rest = self.buffer.split_off(looked_at + end + 1);
                let mut document = std::mem::replace(&mut self.buffer, rest);
                document.pop();
                return Ok(document);
            }
            looked_at = self.buffer.len();
            if looked_at > ANSWER_MAX {
                return Err(std::io::ErrorKind::FileTooLarge.into());
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => self
                    .buffer
                    .extend_from_slice(chunk.get(..count).unwrap_or_default()),
            }
        }
    }
}

impl CallError {
    /// Whether the time is over.
    pub(crate) fn is_late(&self) -> bool {
        matches!(self, Self::Io(error) if is_late(error))
    }

    /// Whether the daemon has hung up.
    pub(crate) fn is_end(&self) -> bool {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(self, Self::Io(error)
            if matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe))
    }
}
