//! What upcallctl asks the daemon: varlink (varlink.org) over control.sock, interface `org.upcalld.Control`.
//!
//! Messages are JSON documents, each ended by a NUL. Every connection is served by a task of its own with bounds on
//! what it may send and on how long it may not read, so one that does not read its answers holds up nobody. Nothing
//! here is on an upcall's path.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinHandle;
use tracing::warn;
use upcall_config::diagnostic::Diagnostic;
use upcall_config::upcall;

use crate::broker::Broker;
use crate::explain::{self, ExplainError, Explainer, Explanation, Question};
use crate::hooks::watch::{HookState, HookWatch};
use crate::linux::modreq::Requests;
use crate::metrics::Standing;
use crate::policy::Policies;
use crate::store::records::Records;
use crate::store::space;

mod model;

pub use model::{Call, DiagnosticText, INTERFACE, Metrics, ModuleStatus, Reload, Reloaded, Status};

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
    /// How the kernel's socket is there.
    kernel_socket: Option<&'static str>,
}

/// Why a question is not answered; a varlink error.
#[derive(Debug)]
struct Refusal {
    error: String,
    parameters: Value,
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
    pub fn new(
        broker: Arc<Broker>,
        policies: Policies,
        hooks: Arc<HookWatch>,
        kernel_socket: Option<&'static str>,
    ) -> Self {
        Self {
            broker,
            policies,
            hooks,
            kernel_socket,
            started: crate::store::records::now_micros(),
        }
    }

    fn status(&self) -> Status {
        let summary = self.policies.summary();
        let state = self.hooks.core();
        let core = state.as_str();
        let foreign = state.foreign();
        let file = self.hooks.file();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            launcher_pid: self.broker.launcher().pid(),
            started: self.started,
            rules: summary.rules,
            files: summary.files,
            loaded: summary.loaded,
            unchanged: summary.unchanged,
            core: core.to_owned(),
            mode: self.hooks.mode().map(str::to_owned),
            foreign: foreign.map(|(pattern, _)| pattern.to_owned()),
            foreign_since: foreign.map(|(_, since)| since),
            checked: self.hooks.checked(),
            previous: file
                .as_ref()
                .ok()
                .map(|file| file.previous.text().to_owned()),
            hook_file_problem: file
                .err()
                .filter(|_| core == "ours")
                .map(|error| error.to_string()),
            module: self.module(),
            keep_free: self.broker.settings().store.keep_free,
            kernel_socket: self.kernel_socket.map(str::to_owned),
        }
    }

    fn module(&self) -> ModuleStatus {
        let state = self.hooks.module();
        let foreign = state.foreign();
        let watched = self.broker.askers();
        ModuleStatus {
            state: state.as_str().to_owned(),
            foreign: foreign.map(|(value, _)| value.to_owned()),
            foreign_since: foreign.map(|(_, since)| since),
            previous: self.hooks.module_hook().previous(),
            evidence: watched.map(|watched| if watched.is_ok() { "kprobe" } else { "scan" }.into()),
            no_kprobe: watched.and_then(|watched| watched.err().map(ToString::to_string)),
        }
    }

    /// Everything that is counted and looked at.
    pub fn metrics(&self) -> Metrics {
        let broker = &self.broker;
        let summary = self.policies.summary();
        let cores = explain::cores(&broker.places().state);
        let spool = self.hooks.file().map(|file| file.spool);
        let spool = spool.unwrap_or_else(|_| broker.places().state.join("spool"));
        let families = broker.metrics().families(&Standing {
            started: self.started,
            hooks: self.hooks.all(),
            askers_lost: broker
                .askers()
                .and_then(|askers| askers.ok().map(Requests::lost)),
            rules: summary.rules.try_into().unwrap_or(u64::MAX),
            loaded: summary.loaded,
            unchanged: summary.unchanged,
            running: broker.admit().running(),
            spool: space::kept(&spool),
            cores: space::kept(&cores),
            free: space::free(&cores),
            keep_free: broker.settings().store.keep_free,
        });
        Metrics { families }
    }

    /// Loads the rules again.
    pub fn reload(&self, asked: Reload) -> Reloaded {
        let (loaded, policy) = self.policies.reload();
        let replaced = policy.is_some();
        if let Some(policy) = policy {
            self.broker.set_policy(policy);
        }
        let text = |diagnostic: &Diagnostic| {
            Ok(DiagnosticText {
                text: diagnostic.render(asked.colour),
                plain: serde_json::to_value(diagnostic.plain())?,
            })
        };
        let diagnostics: Result<_, serde_json::Error> =
            loaded.diagnostics.iter().map(text).collect();
        Reloaded {
            replaced,
            rules: loaded.rules,
            files: loaded
                .files
                .iter()
                .map(|file| file.display().to_string())
                .collect(),
            errors: loaded.errors(),
            warnings: loaded.warnings(),
            // Plain data of ours is always JSON.
            diagnostics: diagnostics.unwrap_or_default(),
            loaded: self.policies.summary().loaded,
        }
    }

    fn explain(&self, question: &Question) -> Result<Explanation, Refusal> {
        let places = self.broker.places();
        let previous = self.hooks.file().ok().map(|file| file.previous);
        let explainer = Explainer {
            resolver: self.broker.resolver(),
            policy: &self.broker.policy(),
            admit: Some([
                self.broker.admit(),
                self.broker.key_admit(),
                self.broker.helper_admit(upcall::Kind::Module),
                self.broker.helper_admit(upcall::Kind::Umh),
            ]),
            cores: &explain::cores(&places.state),
            previous: previous.as_ref(),
            hooks: &places.hooks,
        };
        let records = Records::at(&places.state);
        explainer
            .answer(question, &records)
            .map_err(|error| Refusal::new(name(&error), &error.to_string()))
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
            Some("GetMetrics") => value(&self.metrics()),
            Some("Reload") => value(&self.reload(parameters(call.parameters)?)),
            Some("Explain") => value(&self.explain(&parameters(call.parameters)?)?),
            Some("ExpectSelfTest") => {
                let pid: u32 = call
                    .parameters
                    .get("pid")
                    .and_then(Value::as_u64)
                    .and_then(|pid| pid.try_into().ok())
                    .ok_or_else(|| Refusal::new("BadParameters", "pid"))?;
                if self.hooks.module() == HookState::Ours {
                    // Else with the first request, which would be the one that is tried.
                    self.broker.watch_modules();
                }
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

    async fn serve(self: Arc<Self>, mut stream: UnixStream) -> std::io::Result<()> {
        let uid = stream.peer_cred()?.uid();
        let mut buffer = Vec::new();
        while let Some(question) = next(&mut stream, &mut buffer).await? {
            let answer = match serde_json::from_slice::<Call>(&question) {
                Ok(call) if call.more && call.method == format!("{INTERFACE}.Watch") => {
                    return self.watch(&mut stream).await;
                }
                Ok(call) => {
                    // It reads files; upcalls need the threads that must not wait.
                    let control = Arc::clone(&self);
                    tokio::task::spawn_blocking(move || control.answer(call, uid)).await?
                }
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

    /// Every record and every change of a hook from now on, until the other side hangs up. The first answer is empty
    /// and says that nothing is missed from now on.
    async fn watch(&self, stream: &mut UnixStream) -> std::io::Result<()> {
        let mut records = self.broker.watch();
        let mut changes = self.hooks.changes();
        send(stream, &json!({ "parameters": {}, "continues": true })).await?;
        let mut hung_up = [0; 1];
        loop {
            let news = tokio::select! {
                record = records.recv() => record.map(|record| json!({ "record": &*record })),
                change = changes.recv() => change.map(|change| json!({ "hook": change })),
                _ = stream.read(&mut hung_up) => return Ok(()),
            };
            let parameters = match news {
                Ok(parameters) => parameters,
                Err(broadcast::error::RecvError::Lagged(count)) => json!({ "lost": count }),
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            };
            let document = json!({ "parameters": parameters, "continues": true });
            send(stream, &document).await?;
        }
    }
}

/// The varlink error for why nothing can be explained.
fn name(error: &ExplainError) -> &'static str {
    match error {
        ExplainError::NoSignal(_) => "BadSignal",
        ExplainError::NoText(_) | ExplainError::NotTheKernels(_) => "BadKey",
        ExplainError::NoProcess(_) | ExplainError::Ended(_) => "NoProcess",
        ExplainError::Unreadable { .. } => "Unreadable",
        ExplainError::Container(_) => "NoContainer",
        ExplainError::NoRecord(_) | ExplainError::Kind { .. } | ExplainError::Records(_) => {
            "NoRecord"
        }
    }
}

/// Serves control.sock in this directory: root's, and this group's.
///
/// # Errors
/// As bind(2), chmod(2).
pub fn listen(
    run: &Path,
    group: Option<u32>,
    control: Arc<Control>,
) -> anyhow::Result<JoinHandle<()>> {
    let path = run.join("control.sock");
    drop(std::fs::remove_file(&path));
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o660))?;
    if group.is_some() {
        std::os::unix::fs::chown(&path, None, group)?;
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
    // A question without parameters has the default ones.
    let parameters = if parameters.is_null() {
        json!({})
    } else {
        parameters
    };
    serde_json::from_value(parameters)
        .map_err(|error| Refusal::new("BadParameters", &error.to_string()))
}
