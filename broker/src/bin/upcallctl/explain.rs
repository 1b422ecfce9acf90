//! `upcallctl explain`: which rule would take an upcall, and why; what would run. Nothing is run.

use std::sync::Arc;

use serde_json::json;
use upcalld::explain;
use upcalld::explain::{Does, Explainer, Explanation, KeyAsked, Question, Subject};
use upcalld::linux::cgroup::Cgroups;
use upcalld::policy;
use upcalld::resolve::Resolver;

use crate::cli::{ExplainArgs, Kind};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{print, print_json};

mod page;

/// By whose rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// The daemon's, and whether those on disk are the same.
    Loaded { files: usize, unchanged: bool },
    /// Those on disk.
    Disk { files: usize },
}

/// Runs the command.
pub(crate) fn run(context: &Context, asked: &ExplainArgs) -> Result<(), Failure> {
    let question = question(asked)?;
    let (explanation, policy) = match context.connect() {
        Ok(mut client) => {
            let answer = client.call("Explain", json!(question));
            let explanation = answer.map_err(|error| Failure::call(context, error))?;
            let status = client.status();
            let status = status.map_err(|error| Failure::call(context, error))?;
            let policy = Policy::Loaded {
                files: status.files,
                unchanged: status.unchanged,
            };
            (explanation, policy)
        }
        Err(Failure::NotRunning { .. }) => here(context, &question)?,
        Err(failure) => return Err(failure),
    };
    if context.json.is_some() {
        return print_json(&explanation);
    }
    print(&page::text(&explanation, policy, &context.look))
}

fn question(asked: &ExplainArgs) -> Result<Question, Failure> {
    let of = match (asked.pid, &asked.container, &asked.record) {
        (Some(pid), ..) => Subject::Pid(pid),
        (_, Some(name), _) => Subject::Container(name.clone()),
        (_, _, Some(id)) => Subject::Record(id.clone()),
        (None, None, None) => return Err(Failure::Odd("nothing to explain".to_owned())),
    };
    match (asked.kind, &asked.name) {
        (Kind::Module, None) if asked.record.is_none() => {
            return Err(unfit("no NAME: which module", asked));
        }
        (Kind::Umh, None) if asked.record.is_none() => {
            return Err(unfit("no NAME: which program", asked));
        }
        (Kind::Core | Kind::Key, Some(_)) => {
            return Err(unfit("a NAME is for modules and programs", asked));
        }
        (Kind::Module | Kind::Umh | Kind::Core | Kind::Key, _) => {}
    }
    let does = match (asked.kind, &asked.key_type) {
        (Kind::Module, None) => Does::Module(asked.name.clone().unwrap_or_default()),
        (Kind::Umh, None) => Does::Umh(asked.name.clone().unwrap_or_default()),
        (Kind::Key, Some(kind)) => Does::Key(KeyAsked {
            kind: kind.clone(),
            description: asked.desc.clone(),
            callout: asked.callout.clone(),
            caller: asked.caller.clone(),
        }),
        (Kind::Core | Kind::Module | Kind::Umh, Some(_)) => {
            return Err(unfit("--type is for keys", asked));
        }
        (Kind::Key, None) if asked.record.is_none() => {
            return Err(unfit("no --type: which key", asked));
        }
        // Of a record it is what the record says.
        (Kind::Core | Kind::Key, None) => Does::Signal(asked.signal.clone()),
    };
    Ok(Question {
        of,
        does,
        all: asked.all,
    })
}

fn unfit(what: &str, asked: &ExplainArgs) -> Failure {
    let pid = asked
        .pid
        .map_or_else(|| "PID".to_owned(), |pid| pid.to_string());
    Failure::Usage {
        what: what.to_owned(),
        help: match asked.kind {
            Kind::Module => format!("upcallctl explain --pid {pid} module rtnl-link-wireguard"),
            Kind::Umh => format!("upcallctl explain --pid {pid} umh /sbin/bridge-stp"),
            Kind::Core | Kind::Key => {
                format!("upcallctl explain --pid {pid} key --type dns_resolver --desc host.example")
            }
        },
    }
}

/// With the rules on disk, in this process: the same functions.
fn here(context: &Context, question: &Question) -> Result<(Explanation, Policy), Failure> {
    // Of others' processes only root sees what the rules look at.
    if !nix::unistd::Uid::effective().is_root() {
        return Err(Failure::root_only(context));
    }
    let loaded = policy::check(&context.config);
    let policy = loaded.policy.as_ref().ok_or(Failure::NoRules)?;
    let cgroups = Cgroups::mount().ok().map(Arc::new);
    let resolver = Resolver::new(&loaded.settings.runtimes, cgroups);
    let resolver = resolver.map_err(|errno| Failure::Odd(format!("/proc/self/ns: {errno}")))?;
    let hook = context.hook_file();
    let explainer = Explainer {
        resolver: &resolver,
        policy,
        admit: None,
        cores: &explain::cores(&context.state),
        previous: hook.as_ref().map(|hook| &hook.previous),
        hooks: &context.hooks,
    };
    let explanation = explainer.answer(question, &context.records());
    let explanation = explanation.map_err(|error| Failure::explain(context, error))?;
    let files = loaded.files.len();
    Ok((explanation, Policy::Disk { files }))
}
