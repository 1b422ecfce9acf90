//! The hook itself: what stands there, what would write over it, and whether it is there after the next boot.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use upcall_config::text::printable;
use upcalld::hooks::errno_name;
use upcalld::hooks::file::CoreHook;
use upcalld::hooks::pattern::Pattern;

use super::finding::Finding;
use super::host::Host;
use super::sysctl_d;

/// systemd's unit that puts its own socket into core_pattern.
const REGISTER: &str = "systemd-coredump-register.service";

/// What stands in core_pattern.
pub(super) fn hook(host: &Host<'_>) -> Finding {
    const NAME: &str = "hook";
    let context = host.context;
    let standing = match host.sysctl.read() {
        Ok(standing) => standing.pattern,
        Err(error) => return Finding::unknown(NAME, error.to_string()),
    };
    let file = CoreHook::read(&context.hooks);
    let text = printable(standing.text());
    let install = context.typed("install core");
    match (standing.is_of(&context.hooks), file) {
        (true, Ok(_)) if matches!(standing, Pattern::Socket(_)) && !host.keeps_kernel_socket() => {
            Finding::warning(NAME, "core_pattern is our socket, and nothing keeps that while upcalld does not run")
                .why("a crash that comes meanwhile has no core")
                .cure(format!(
                    "systemctl enable --now upcalld.socket upcalld.service, then {install}; or {install} --mode pipe"
                ))
        }
        (true, Ok(file)) => Finding::ok(
            NAME,
            format!(
                "core_pattern is ours ({}); before us: {}",
                standing.mode(),
                printable(file.previous.text())
            ),
        ),
        (true, Err(error)) => Finding::error(NAME, format!("core_pattern is ours, but {error}"))
            .why("nobody knows what stood there before, and the shim goes by defaults")
            .cure(format!(
                "put back by hand what stood there (echo core > /proc/sys/kernel/core_pattern), then {install}"
            )),
        (false, Ok(_)) => Finding::error(NAME, format!("core_pattern is {text}, not ours any more"))
            .why("crashes go there, and no rule of yours applies to them")
            .cure(format!("{}; then {install}", silence(&standing))),
        (false, Err(_)) if standing.is_upcallds() => {
            Finding::warning(NAME, format!("core_pattern is another upcalld's: {text}"))
                .why("no rule of this one applies to crashes")
                .cure("upcallctl with that one's --config, uninstall; then install this one")
        }
        (false, Err(_)) => Finding::warning(NAME, format!("not installed; core_pattern is {text}"))
            .why("no crash comes here")
            .cure(install),
    }
}

/// How to keep what stands there from coming back.
fn silence(pattern: &Pattern) -> String {
    let text = pattern.text();
    if matches!(pattern, Pattern::Socket(_)) && text.contains("systemd") {
        format!("systemctl disable --now {REGISTER}")
    } else if text.contains("systemd-coredump") {
        "something ran systemd-sysctl; upcalld-hooks.service keeps it from counting (docs/operations.md)".to_owned()
    } else if text.contains("apport") {
        "systemctl disable --now apport.service".to_owned()
    } else {
        "find who writes it: grep -rs core_pattern /etc /usr/lib/sysctl.d".to_owned()
    }
}

/// The program that the kernel starts, as PID 1 sees it: the kernel looks it up from there.
pub(super) fn program(host: &Host<'_>) -> Finding {
    const NAME: &str = "program";
    let context = host.context;
    let pattern = host.sysctl.read().map(|standing| standing.pattern);
    let path = match pattern {
        Ok(pattern @ Pattern::Pipe(_)) if pattern.is_of(&context.hooks) => {
            let words = pattern.text().trim_start_matches('|').to_owned();
            PathBuf::from(words.split(' ').next().unwrap_or_default())
        }
        _ => context.libexec.join("core"),
    };
    let below = path.strip_prefix("/").unwrap_or(&path);
    let seen = host.path("proc/1/root").join(below);
    let missing = |why: &str| {
        Finding::error(NAME, format!("{}: {why}", path.display()))
            .why("the kernel starts it for every crash that does not come by socket, in the root of PID 1; without it they are lost")
            .cure("install the package again, or make install")
    };
    match std::fs::metadata(&seen) {
        Ok(meta) if !meta.is_file() || meta.mode() & 0o111 == 0 => missing("not a program"),
        Ok(meta) if meta.uid() != 0 || meta.mode() & 0o022 != 0 => {
            missing("somebody else than root can write it")
        }
        Ok(_) => Finding::ok(NAME, path.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Finding::unknown(NAME, format!("{}: {}", seen.display(), errno_name(&error)))
        }
        Err(error) => missing(&errno_name(&error)),
    }
}

/// Whether the hook is put in at every boot.
pub(super) fn boot(host: &Host<'_>) -> Finding {
    const NAME: &str = "boot";
    if !host.system || !host.is_ours() {
        return Finding::ok(NAME, "the hook is not this system's own");
    }
    if !host.path("run/systemd/system").is_dir() {
        return Finding::ok(NAME, "no systemd: whoever starts upcalld --install core");
    }
    let wants = "etc/systemd/system/multi-user.target.wants/upcalld-hooks.service";
    if std::fs::symlink_metadata(host.path(wants)).is_ok() {
        return Finding::ok(NAME, "upcalld-hooks.service is enabled");
    }
    Finding::warning(NAME, "upcalld-hooks.service is not enabled")
        .why("core_pattern is the kernel's alone: after the next boot crashes do not come here")
        .cure("systemctl enable upcalld-hooks.service")
}

/// What systemd-sysctl would write over the hook.
pub(super) fn sysctl_d(host: &Host<'_>) -> Finding {
    const NAME: &str = "sysctl.d";
    let found = sysctl_d::last(host, "kernel.core_pattern");
    match found {
        Some(line) if host.is_ours() && !Pattern::parse(&line.value).is_of(&host.context.hooks) => {
            let value = printable(&line.value);
            Finding::warning(NAME, format!("{} sets core_pattern to {value}", line.place()))
                .why("systemd-sysctl runs at boot and when packages with such files are installed; then the hook is that one's")
                .cure("systemctl enable --now upcalld-hooks.service, which keeps a line of ours behind it; or hooks.retake = true")
        }
        _ => Finding::ok(NAME, "nothing resets our hook"),
    }
}

/// systemd's own socket for cores.
pub(super) fn systemd(host: &Host<'_>) -> Finding {
    const NAME: &str = "systemd";
    let unit = Path::new("usr/lib/systemd/system").join(REGISTER);
    let masked = host.path(Path::new("etc/systemd/system").join(REGISTER));
    let is_masked = std::fs::read_link(masked).is_ok_and(|to| to == Path::new("/dev/null"));
    if !host.is_ours() || !host.path(unit).exists() || is_masked {
        return Finding::ok(NAME, "no unit of systemd's takes the hook");
    }
    Finding::warning(
        NAME,
        format!("{REGISTER} would put systemd's socket into core_pattern"),
    )
    .why("at its next start crashes go to systemd-coredump alone")
    .cure(format!("systemctl mask --now {REGISTER}"))
}
