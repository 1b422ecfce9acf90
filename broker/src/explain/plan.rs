//! A plan in words: what would run, where, as whom, what would be kept.

mod key;

use std::path::Path;
use std::time::Duration;

use upcall_config::decide::Denial;
use upcall_config::facts::Facts;
use upcall_config::placed::Protocol;
use upcall_config::plan::{Cgroup, Limit, OnFailure, Place, Plan, Rate, Run, Store, User};
use upcall_config::rule::Rule;
use upcall_config::text::{escape, printable};
use upcall_config::upcall::{Kind, Upcall};
use upcall_helpers::hookfile::HookFile;

use super::Explainer;
use crate::admit::Tenant;
use crate::hooks::pattern::Pattern;
use crate::identify::Origin;
use crate::linux::namespace::Ns;
use crate::resolve::{Container, Resolution};
use upcall_config::capability;

/// What the sentences are about: a container as it is now, or as a record has it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) leader: Option<u32>,
    /// Namespaces that the container does not share with the host.
    pub(super) own: Vec<String>,
    /// As whom a helper would run: its init, its root, the crashed process.
    pub(super) ids: Option<[Ids; 3]>,
}

/// One user of a container.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ids {
    /// Uid and gid, seen from the host.
    outside: (Option<u32>, Option<u32>),
    /// The same, seen from inside.
    inside: (Option<u32>, Option<u32>),
    capabilities: u32,
}

impl Seen {
    /// As it is now.
    pub(super) fn live(resolution: &Resolution, origin: &Origin) -> Self {
        let Some(container) = &resolution.container else {
            return Self::default();
        };
        let leader = &container.leader;
        let own = Ns::ALL
            .into_iter()
            .filter(|kind| container.own_namespaces & kind.flag() != 0);
        let ids = |uid: Option<u32>, gid: Option<u32>| Ids::new(container, uid, gid);
        let ([init_uid, ..], [init_gid, ..]) = (leader.status.uids, leader.status.gids);
        let ([uid, ..], [gid, ..]) = (origin.status.uids, origin.status.gids);
        Self {
            leader: Some(leader.process.pid()),
            own: own.map(|kind| kind.name().to_owned()).collect(),
            ids: Some([
                ids(Some(init_uid), Some(init_gid)),
                ids(leader.uids.outside(0), leader.gids.outside(0)),
                ids(Some(uid), Some(gid)),
            ]),
        }
    }

    fn of(&self, user: User) -> Option<Ids> {
        let [init, root, origin] = self.ids?;
        Some(match user {
            User::Init => init,
            User::Root => root,
            User::Origin => origin,
            User::OriginItself => Ids {
                capabilities: 0,
                ..origin
            },
        })
    }
}

impl Ids {
    fn new(container: &Container, uid: Option<u32>, gid: Option<u32>) -> Self {
        let leader = &container.leader;
        let inside = (
            uid.and_then(|uid| leader.uids.inside(uid)),
            gid.and_then(|gid| leader.gids.inside(gid)),
        );
        let root = inside.0 == Some(0);
        Self {
            outside: (uid, gid),
            inside,
            // Executing a program, root keeps what it may have, and nobody else anything (capabilities(7)).
            capabilities: if root {
                leader.capabilities().count_ones()
            } else {
                0
            },
        }
    }
}

/// What a plan is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) explainer: &'a Explainer<'a>,
    /// The rule that decides.
    pub(super) rule: Option<&'a Rule>,
    pub(super) seen: &'a Seen,
    pub(super) facts: &'a Facts,
    pub(super) upcall: &'a Upcall,
}

impl About<'_> {
    /// The plan, a line each.
    pub(super) fn text(&self, plan: &Plan) -> Vec<(String, String)> {
        let mut lines = Vec::new();
        let mut line = |word: &str, text: String| lines.push((word.to_owned(), text));
        let core_limit = self.upcall.core().and_then(|core| core.limit);
        let kind = self.upcall.kind();
        let is_key = kind == Kind::Key;
        for refusal in plan.refused() {
            line(
                refusal.action,
                format!("refused: {}: {}", refusal.reason, refusal.message),
            );
        }
        let programs = [
            ("run", plan.run(), run as fn(&Run) -> String),
            ("deliver", plan.deliver(), delivered),
            ("file", plan.file(), written),
        ];
        for (word, program, said) in programs {
            let Some(run) = program else { continue };
            line(word, if is_key { key::run(run) } else { said(run) });
            line("in", place(run, self.seen));
            line("as", user(run, self.seen));
            if !is_key && !run.reads_core() {
                line("stdin", "nothing; the process is held meanwhile".to_owned());
            }
        }
        if let Some(answer) = plan.answer() {
            line("answer", key::answered(answer));
        }
        if let Some(store) = plan.store() {
            line("store", kept(self.explainer, store, core_limit));
        }
        if plan.pass() {
            let pipe = matches!(self.explainer.previous, None | Some(Pattern::Pipe(_)));
            let limit = core_limit.filter(|limit| !pipe && *limit != u64::MAX);
            let limit = limit.map(|limit| format!("; within its core limit, {}", size(limit)));
            line(
                "pass",
                match kind {
                    Kind::Key => key::passed(self.explainer.hooks),
                    Kind::Module => module(self.explainer.hooks) + &with_at_most(plan),
                    Kind::Umh => HOSTS_OWN.to_owned() + &with_at_most(plan),
                    Kind::Core => passed(self.explainer.previous) + &limit.unwrap_or_default(),
                },
            );
        }
        if let (Some(limit), Some(rule)) = (plan.limit(), self.rule) {
            let admit = self
                .explainer
                .admit
                .map(|[cores, keys, modules, others]| match kind {
                    Kind::Core => cores,
                    Kind::Key => keys,
                    Kind::Module => modules,
                    Kind::Umh => others,
                });
            let left = admit.map(|admit| admit.left(rule.source(), limit, &Tenant::of(self.facts)));
            line("limit", limited(limit, left.unwrap_or_default()));
        }
        if plan.run().is_some() || plan.deliver().is_some() || plan.file().is_some() {
            line(
                "on failure",
                match plan.on_failure() {
                    OnFailure::Pass => "pass".to_owned(),
                    OnFailure::Store | OnFailure::Drop if is_key => "refused".to_owned(),
                    OnFailure::Store => "store".to_owned(),
                    OnFailure::Drop => "drop".to_owned(),
                },
            );
        }
        lines
    }
}

/// What a rule refuses with.
pub(super) fn denied(denial: &Denial, kind: Kind) -> (String, String) {
    let reason = format!("\"{}\"", printable(&denial.reason));
    let text = if kind == Kind::Key {
        key::denied(&reason, denial)
    } else {
        reason
    };
    ("deny".to_owned(), text)
}

/// What any other helper is.
const HOSTS_OWN: &str = "that program, the host's own, in its namespaces, with the kernel's words";

/// What it may have at most, where the rule says so.
fn with_at_most(plan: &Plan) -> String {
    if plan.capabilities() == capability::ALL {
        return String::new();
    }
    let names = capability::names(plan.capabilities());
    format!("; with at most the capabilities {}", names.join(", "))
}

/// What loads a module.
fn module(hooks: &Path) -> String {
    let program = HookFile::read(hooks, "module").program;
    let program = printable(&program.to_string_lossy());
    format!("{program}, the host's own, in its namespaces; what it loads is there for all")
}

/// What runs when all is done.
pub(super) fn post(run: &Run) -> (String, String) {
    let words = quoted(run);
    let text = format!("{words}; on the host when all is done, stdin: the record");
    ("post".to_owned(), text)
}

/// The words of a helper, as they are.
fn quoted(run: &Run) -> String {
    let words = run.argv().iter().map(|word| escape(word));
    let words = words.enumerate().map(|(place, word)| match place {
        0 => word,
        _ => format!("\"{word}\""),
    });
    words.collect::<Vec<String>>().join(" ")
}

/// A word of our own program's command line.
fn word(run: &Run, place: usize) -> String {
    run.argv()
        .get(place)
        .map(|word| escape(word))
        .unwrap_or_default()
}

fn delivered(run: &Run) -> String {
    let (protocol, socket) = (word(run, 2), word(run, 3));
    let timeout = time(run.timeout());
    format!("{socket}, spoken to as {protocol}; no progress for {timeout} ends it")
}

fn written(run: &Run) -> String {
    let (path, max) = (word(run, 2), word(run, 3));
    let from = if path.starts_with('/') {
        "its root"
    } else {
        "its working directory"
    };
    let limit = match max.parse() {
        Ok(max) => format!("its core limit is {}", size(max)),
        Err(_) => "no core limit".to_owned(),
    };
    format!("{path} from {from}, {limit}")
}

fn run(run: &Run) -> String {
    let (words, timeout) = (quoted(run), time(run.timeout()));
    format!("{words}; stdin: the core; no progress for {timeout} ends it")
}

fn place(run: &Run, seen: &Seen) -> String {
    if run.place() == Place::Beside {
        return key::beside(run, seen);
    }
    let (Place::Container, Some(leader)) = (run.place(), seen.leader) else {
        return match run.user() {
            User::OriginItself => "the host, in the process's own root and directory".to_owned(),
            User::Init | User::Root | User::Origin => {
                "the host, as the kernel would start it".to_owned()
            }
        };
    };
    let is_own = |kind: &Ns| seen.own.iter().any(|own| own == kind.name());
    let shared: Vec<&str> = Ns::ALL
        .into_iter()
        .filter(|kind| !is_own(kind))
        .map(Ns::name)
        .collect();
    let shared = match shared.as_slice() {
        [] => String::new(),
        [one] => format!(" ({one} is the host's)"),
        more => format!(" ({} are the host's)", more.join(" ")),
    };
    let cgroup = match run.cgroup() {
        Cgroup::Container => "its cgroup's child upcall-ID",
        Cgroup::Broker => "a cgroup of upcalld's",
    };
    let room = match run.user() {
        User::OriginItself => "the process's own root and directory",
        User::Init | User::Root | User::Origin => "root /, cwd /",
    };
    format!(
        "{} of leader {leader}{shared}, {room}, {cgroup}",
        seen.own.join(" "),
    )
}

fn user(run: &Run, seen: &Seen) -> String {
    if run.place() == Place::Beside {
        return "a user that nobody else is; no capabilities; no_new_privs".to_owned();
    }
    if run.place() == Place::Host || seen.leader.is_none() {
        return match run.user() {
            User::OriginItself => {
                "the process's own user; no capabilities; no_new_privs; seccomp default".to_owned()
            }
            User::Init | User::Root | User::Origin => "root of the host".to_owned(),
        };
    }
    let whose = match run.user() {
        User::Init => "its init's ids",
        User::Root => "its root",
        User::Origin => "the process's own ids",
        User::OriginItself => "the process's own user",
    };
    let Some(ids) = seen.of(run.user()) else {
        return format!("{whose}; no_new_privs; seccomp default");
    };
    let number = |id: Option<u32>| id.map_or_else(|| "?".to_owned(), |id| id.to_string());
    format!(
        "{}:{} ({}:{} outside), {whose}; {} of {} capabilities; no_new_privs; seccomp default",
        number(ids.inside.0),
        number(ids.inside.1),
        number(ids.outside.0),
        number(ids.outside.1),
        ids.capabilities,
        capability::COUNT,
    )
}

fn kept(explainer: &Explainer<'_>, store: Store, core_limit: Option<u64>) -> String {
    let limit = match core_limit {
        None | Some(u64::MAX) => "no core limit".to_owned(),
        Some(limit) if store.ignore_limit() => format!("core limit {} ignored", size(limit)),
        Some(limit) => format!("within its core limit, {}", size(limit)),
    };
    format!(
        "{}, at most {}, {limit}",
        explainer.cores.display(),
        size(store.max_size())
    )
}

/// What `pass` comes to in this version, for what stood in core_pattern before us.
pub fn passed(previous: Option<&Pattern>) -> String {
    match previous {
        None => "what stands in core_pattern before the hook is installed".to_owned(),
        Some(Pattern::Pipe(text)) => {
            let program = text.trim_start_matches('|').split_ascii_whitespace().next();
            format!("{}, with its own arguments", program.unwrap_or_default())
        }
        Some(socket @ Pattern::Socket(_)) if socket.is_systemds_socket() => {
            format!(
                "systemd-coredump of the host, at {}",
                Protocol::Systemd.socket()
            )
        }
        Some(Pattern::Socket(_)) => {
            "a copy kept on the host: a socket cannot be given a pipe's core".to_owned()
        }
        Some(Pattern::File(text)) => {
            format!("a file by the pattern \"{text}\", as the user that crashed")
        }
    }
}

fn limited(limit: Limit, left: crate::admit::Left) -> String {
    let rate = limit.rate.map(|limit| match left.rate {
        Some(left) => format!("{}, {left} left", rate(limit)),
        None => rate(limit),
    });
    let concurrent = limit.concurrent.map(|count| match left.running {
        Some(running) => format!("{count} at once, {running} running"),
        None => format!("{count} at once"),
    });
    let text: Vec<String> = rate.into_iter().chain(concurrent).collect();
    text.join("; ")
}

/// As rules write it: `10/min`.
fn rate(rate: Rate) -> String {
    let per = match rate.per.as_secs() {
        1 => "s".to_owned(),
        60 => "min".to_owned(),
        3600 => "h".to_owned(),
        86_400 => "day".to_owned(),
        seconds => format!("{seconds}s"),
    };
    format!("{}/{per}", rate.count)
}

/// As rules write it: `4GiB`.
fn size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// As rules write it: `30s`.
fn time(time: Duration) -> String {
    let ms = time.as_millis();
    for (factor, unit) in [(3_600_000, "h"), (60_000, "m"), (1000, "s")] {
        if ms != 0 && ms.is_multiple_of(factor) {
            return format!("{}{unit}", ms / factor);
        }
    }
    format!("{ms}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_said_as_rules_write_them() {
        assert_eq!(
            (size(4 << 30), size(0), size(4097)),
            ("4GiB".into(), "0".into(), "4097".into())
        );
        let times = [30_000, 1500, 60_000, 7_200_000, 0].map(Duration::from_millis);
        assert_eq!(times.map(time), ["30s", "1500ms", "1m", "2h", "0ms"]);
        let ten = |seconds| Rate {
            count: 10,
            per: Duration::from_secs(seconds),
        };
        assert_eq!(
            [1, 60, 3600, 86_400].map(|s| rate(ten(s))),
            ["10/s", "10/min", "10/h", "10/day"]
        );
    }

    #[test]
    fn what_pass_comes_to_is_said_for_every_kind_of_pattern() {
        let said = |text| passed(Some(&Pattern::parse(text)));
        assert_eq!(
            said("|/usr/bin/handler %P"),
            "/usr/bin/handler, with its own arguments"
        );
        assert!(said("core.%p").contains("\"core.%p\""));
        assert!(said("@@/run/x").starts_with("a copy kept on the host"));
        assert!(said("@@/run/systemd/coredump-kernel").ends_with("at /run/systemd/coredump"));
        assert!(passed(None).contains("before the hook is installed"));
    }
}
