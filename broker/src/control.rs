//! What upcallctl asks the daemon: varlink (varlink.org) over control.sock, interface `org.upcalld.Control`.
//!
//! Messages are JSON documents, each ended by a NUL. Every connection is served by a task of its own with bounds on
//! what it may send and on how long it may not read, so one that does not read its answers holds up nobody. Nothing
//! here is on an upcall's path.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinHandle;
use tracing::warn;
use upcall_config::diagnostic::Diagnostic;

use crate::broker::Broker;
use crate::explain::{self, Explanation};
use crate::hooks::watch::{CoreState, HookWatch};
use crate::policy::Policies;

/// The interface's name.
pub const INTERFACE: &str = "org.upcalld.Control";

/// The longest question.
const QUESTION_MAX: usize = 64 * 1024;

/// Who does not read his answer for this long is hung up on.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections at once.
const CONNECTIONS_MAX: usize = 64;

/// What the answers come from.
#[derive(Debug)]
pub struct Control {
    broker: Arc<Broker>,
    policies: Policies,
    hooks: Arc<HookWatch>,
    /// When the daemon started, in microseconds since the epoch.
    started: u64,
}

/// `GetStatus`: what only the daemon knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Its pid.
    pub pid: u32,
    /// The launcher's pid.
    pub launcher_pid: u32,
    /// When it started, in microseconds since the epoch.
    pub started: u64,
    /// Rules that are loaded.
    pub rules: usize,
    /// Files they came from.
    pub files: usize,
    /// When they were loaded, in microseconds since the epoch.
    pub loaded: u64,
    /// What stands in core_pattern: `ours`, `foreign`, `not_installed`.
    pub core: String,
    /// The foreign pattern.
    pub foreign: Option<String>,
    /// Since when it is known, in microseconds since the epoch.
    pub foreign_since: Option<u64>,
    /// What stood there before us.
    pub previous: Option<String>,
    /// Bytes that must stay free for cores.
    pub keep_free: u64,
}

/// `Reload`: whether the rules are others now, and what is wrong with those on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reloaded {
    /// Whether the new ones are in force.
    pub replaced: bool,
    /// Rules that were read.
    pub rules: usize,
    /// Files that were read.
    pub files: usize,
    /// Everything that is wrong, in order.
    pub diagnostics: Vec<DiagnosticText>,
    /// When the rules in force were loaded, in microseconds since the epoch.
    pub loaded: u64,
}

/// A diagnostic for a program and for people.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiagnosticText {
    /// `error` or `warning`.
    pub severity: String,
    /// As `upcallctl check` shows it, without colour.
    pub text: String,
}

/// The parameters of `Explain`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExplainAsked {
    /// The process.
    pub pid: u32,
    /// The signal that it is to crash with, without `SIG`.
    pub signal: String,
    /// Also the rules behind the one that matches.
    pub all: bool,
}

/// Why a question is not answered; a varlink error.
#[derive(Debug)]
struct Refusal {
    error: String,
    parameters: Value,
}

#[derive(Debug, Deserialize)]
struct Call {
    method: String,
    #[serde(default)]
    parameters: Value,
    #[serde(default)]
    more: bool,
}

impl Refusal {
    fn new(name: &str, message: &str) -> Self {
        Self {
            error: format!("{INTERFACE}.{name}"),
            parameters: json!({ "message": message }),
        }
    }
}

impl Control {
    /// Answers from these.
    pub fn new(broker: Arc<Broker>, policies: Policies, hooks: Arc<HookWatch>) -> Self {
        Self {
            broker,
            policies,
            hooks,
            started: crate::store::records::now_micros(),
        }
    }

    fn status(&self) -> Status {
        let summary = self.policies.summary();
        let (core, foreign, foreign_since) = match self.hooks.look() {
            CoreState::NotInstalled => ("not_installed", None, None),
            CoreState::Ours => ("ours", None, None),
            CoreState::Foreign { pattern, since } => ("foreign", Some(pattern), Some(since)),
        };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            launcher_pid: self.broker.launcher().pid(),
            started: self.started,
            rules: summary.rules,
            files: summary.files,
            loaded: summary.loaded,
            core: core.to_owned(),
            foreign,
            foreign_since,
            previous: self
                .hooks
                .file()
                .map(|file| file.previous.text().to_owned()),
            keep_free: self.broker.settings().store.keep_free,
        }
    }

    /// Loads the rules again.
    pub fn reload(&self) -> Reloaded {
        let (loaded, policy) = self.policies.reload();
        let replaced = policy.is_some();
        if let Some(policy) = policy {
            self.broker.set_policy(policy);
        }
        let text = |diagnostic: &Diagnostic| DiagnosticText {
            severity: diagnostic.plain().severity.to_string(),
            text: diagnostic.render(false),
        };
        Reloaded {
            replaced,
            rules: loaded.rules,
            files: loaded.files.len(),
            diagnostics: loaded.diagnostics.iter().map(text).collect(),
            loaded: self.policies.summary().loaded,
        }
    }

    fn explain(&self, asked: &ExplainAsked) -> Result<Explanation, Refusal> {
        let signal = upcall_config::upcall::Signal::from_name(&asked.signal)
            .ok_or_else(|| Refusal::new("BadSignal", &asked.signal))?;
        let policy = self.broker.policy();
        explain::core(
            self.broker.resolver(),
            &policy,
            asked.pid,
            signal,
            asked.all,
        )
        .map_err(|error| Refusal::new("NoProcess", &error.to_string()))
    }

    /// Answers one question.
    fn answer(&self, call: Call, uid: u32) -> Result<Value, Refusal> {
        let method = call
            .method
            .strip_prefix(INTERFACE)
            .and_then(|rest| rest.strip_prefix('.'));
        let changes = matches!(method, Some("Reload" | "ExpectSelfTest"));
        if changes && uid != 0 {
            return Err(Refusal::new("NotPermitted", "only root may do this"));
        }
        match method {
            Some("GetStatus") => value(&self.status()),
            Some("Reload") => value(&self.reload()),
            Some("Explain") => value(&self.explain(&parameters(call.parameters)?)?),
            Some("ExpectSelfTest") => {
                let pid: u32 = call
                    .parameters
                    .get("pid")
                    .and_then(Value::as_u64)
                    .and_then(|pid| pid.try_into().ok())
                    .ok_or_else(|| Refusal::new("BadParameters", "pid"))?;
                self.broker.expect_self_test(pid);
                Ok(json!({}))
            }
            _ if call.method == "org.varlink.service.GetInfo" => Ok(json!({
                "vendor": "upcalld", "product": "upcalld", "version": env!("CARGO_PKG_VERSION"),
                "url": "", "interfaces": ["org.varlink.service", INTERFACE],
            })),
            _ => Err(Refusal {
                error: "org.varlink.service.MethodNotFound".to_owned(),
                parameters: json!({ "method": call.method }),
            }),
        }
    }

    async fn serve(&self, mut stream: UnixStream) -> std::io::Result<()> {
        let uid = stream.peer_cred()?.uid();
        let mut buffer = Vec::new();
        while let Some(question) = next(&mut stream, &mut buffer).await? {
            let answer = match serde_json::from_slice::<Call>(&question) {
                Ok(call) if call.more && call.method == format!("{INTERFACE}.Watch") => {
                    return self.watch(&mut stream).await;
                }
                Ok(call) => self.answer(call, uid),
                Err(error) => Err(Refusal::new("BadQuestion", &error.to_string())),
            };
            let document = match answer {
                Ok(parameters) => json!({ "parameters": parameters }),
                Err(refusal) => json!({ "error": refusal.error, "parameters": refusal.parameters }),
            };
            send(&mut stream, &document).await?;
        }
        Ok(())
    }

    /// Every record from now on, until the other side hangs up.
    async fn watch(&self, stream: &mut UnixStream) -> std::io::Result<()> {
        let mut records = self.broker.watch();
        let mut hung_up = [0; 1];
        loop {
            let record = tokio::select! {
                record = records.recv() => record,
                _ = stream.read(&mut hung_up) => return Ok(()),
            };
            let document = match record {
                Ok(record) => json!({ "parameters": { "record": &*record }, "continues": true }),
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    json!({ "parameters": { "lost": count }, "continues": true })
                }
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            };
            send(stream, &document).await?;
        }
    }
}

/// Serves control.sock: root's, and whoever's its group is made.
///
/// # Errors
/// As bind(2), chmod(2).
pub fn listen(path: &Path, control: Arc<Control>) -> anyhow::Result<JoinHandle<()>> {
    drop(std::fs::remove_file(path));
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o660))?;
    if let Ok(Some(group)) = nix::unistd::Group::from_name("upcall") {
        std::os::unix::fs::chown(path, None, Some(group.gid.as_raw()))?;
    }
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    Ok(tokio::spawn(async move {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let control = Arc::clone(&control);
                    tokio::spawn(async move {
                        // Who hangs up in the middle has had enough.
                        drop(control.serve(stream).await);
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!("control.sock: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }))
}

/// The next question; `None` at the end.
async fn next(stream: &mut UnixStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(end) = buffer.iter().position(|byte| *byte == 0) {
            let rest = buffer.split_off(end + 1);
            let mut question = std::mem::replace(buffer, rest);
            question.pop();
            return Ok(Some(question));
        }
        if buffer.len() > QUESTION_MAX {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

async fn send(stream: &mut UnixStream, document: &Value) -> std::io::Result<()> {
    let mut bytes = serde_json::to_vec(document)?;
    bytes.push(0);
    tokio::time::timeout(PATIENCE, stream.write_all(&bytes)).await?
}

fn value(answer: &impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(answer).map_err(|error| Refusal::new("Internal", &error.to_string()))
}

fn parameters<T: DeserializeOwned>(parameters: Value) -> Result<T, Refusal> {
    serde_json::from_value(parameters)
        .map_err(|error| Refusal::new("BadParameters", &error.to_string()))
}
