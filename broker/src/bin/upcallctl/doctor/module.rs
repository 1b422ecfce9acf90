//! Whose program the kernel starts for modules, and what that needs.

use std::os::unix::fs::PermissionsExt;

use upcall_config::text::printable;
use upcalld::hooks::module::Standing;

use super::finding::Finding;
use super::host::{Host, Text};
use super::kernel;

/// What stands in kernel.modprobe.
pub(super) fn hook(host: &Host<'_>) -> Finding {
    const NAME: &str = "module";
    let hook = host.module();
    let install = host.context.typed("install module");
    let standing = match hook.standing() {
        Ok(standing) => standing,
        Err(error) => return Finding::unknown(NAME, error.to_string()),
    };
    match (standing, hook.path().exists()) {
        (Standing::Ours, true) => Finding::ok(NAME, "kernel.modprobe is ours"),
        (Standing::Ours, false) => {
            Finding::error(NAME, "kernel.modprobe is ours, but its file is gone")
                .why("the shim goes by defaults: it looks for upcalld where it may not be, and then loads everything")
                .cure(install)
        }
        (Standing::Another(value) | Standing::Foreign(value), true) => Finding::error(
            NAME,
            format!("kernel.modprobe is {}, not ours any more", printable(&value)),
        )
        .why("somebody has written it, or the host was booted: no rule of yours applies to modules")
        .cure(format!("{install}; at every boot: systemctl enable upcalld-hooks")),
        (Standing::Another(value), false) => Finding::warning(
            NAME,
            format!("kernel.modprobe is another upcalld's: {}", printable(&value)),
        )
        .why("no rule of this one applies to modules")
        .cure("upcallctl with that one's --config, uninstall module; then install this one"),
        (Standing::Foreign(_), false) => Finding::ok(
            NAME,
            format!("kernel.modprobe is not ours, nor is it to be ({install})"),
        ),
        (Standing::NoModules, _) => Finding::ok(NAME, "this kernel has no modules"),
    }
}

fn is_ours(host: &Host<'_>) -> bool {
    host.module()
        .standing()
        .is_ok_and(|standing| standing == Standing::Ours)
}

/// What `pass` executes for a module, and with which rights.
pub(super) fn modprobe(host: &Host<'_>) -> Finding {
    const NAME: &str = "modprobe";
    if !is_ours(host) {
        return Finding::ok(NAME, "it counts while kernel.modprobe is ours");
    }
    let program = host.module().program();
    let shown = program.display();
    let seen = host.path(program.strip_prefix("/").unwrap_or(&program));
    let wrong = match std::fs::metadata(seen) {
        Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => None,
        Ok(_) => Some("not a program".to_owned()),
        Err(error) => Some(upcalld::hooks::errno_name(&error)),
    };
    if let Some(wrong) = wrong {
        return Finding::error(NAME, format!("{shown}: {wrong}"))
            .why("it is what `pass` executes for a module: nothing is loaded for anybody")
            .cure("`program` in the hook's file, or the package kmod");
    }
    if kernel::lacks(host, "SYS_MODULE") {
        return Finding::error(NAME, "kernel.usermodehelper.bset lacks SYS_MODULE")
            .why("what the kernel starts may not load modules, whatever the rules say")
            .cure("it can only shrink until the next boot; what lowers it: see bset");
    }
    let disabled = host.read("proc/sys/kernel/modules_disabled").ok();
    if disabled.is_some_and(|text| text.trim() == "1") {
        let what = "kernel.modules_disabled is 1: the kernel takes no module until the next boot";
        return Finding::warning(NAME, what)
            .why("requests are answered and recorded, and `pass` loads nothing")
            .cure("none is needed if that is meant");
    }
    Finding::ok(NAME, format!("`pass` of a module is {shown}"))
}

/// How who asks for a module is known.
pub(super) fn askers(host: &Host<'_>) -> Finding {
    const NAME: &str = "askers";
    if !is_ours(host) {
        return Finding::ok(NAME, "they count while kernel.modprobe is ours");
    }
    let lockdown = host.read("sys/kernel/security/lockdown").ok();
    let lockdown = lockdown.is_some_and(|text| text.contains("[confidentiality]"));
    let module = host.daemon.as_ref().map(|daemon| &daemon.module);
    let scan = module.and_then(|module| module.no_kprobe.as_deref());
    let (why, cure) = match (scan, lockdown) {
        (None, false) => {
            return Finding::ok(
                NAME,
                "the kernel says who asks for a module, as far as it was asked",
            );
        }
        (_, true) => (
            "the kernel is locked down (confidentiality)".to_owned(),
            "boot with lockdown=integrity, if that is enough for you",
        ),
        (Some(why), false) if why.starts_with("tracefs") => (
            why.to_owned(),
            "a kernel with CONFIG_FTRACE and CONFIG_KPROBE_EVENTS",
        ),
        (Some(why), false) => (why.to_owned(), "a kernel with CONFIG_KPROBE_EVENTS"),
    };
    Finding::warning(
        NAME,
        format!("who asks for a module is found by a scan of /proc: {}", printable(&why)),
    )
    .why("where several ask at once nobody knows which of them did, and all are refused if one of them would be")
    .cure(cure)
}

/// Which of the kernel's programs packages are told to unpack elsewhere (dpkg-divert(1)).
pub(super) fn diversions(host: &Host<'_>) -> Finding {
    const NAME: &str = "diversions";
    const PROGRAMS: [&str; 4] = [
        "/sbin/request-key",
        "/usr/sbin/request-key",
        "/sbin/modprobe",
        "/usr/sbin/modprobe",
    ];
    let text = match host.read("var/lib/dpkg/diversions") {
        Text::Is(text) => text,
        Text::None => return Finding::ok(NAME, "there is no dpkg"),
        Text::Closed(why) => return Finding::unknown(NAME, why),
    };
    // Three lines each: what, to where, and whose; `:` is the admin's.
    let lines: Vec<&str> = text.lines().collect();
    let (entries, _) = lines.as_chunks::<3>();
    let ours = |to: &str| to.ends_with(".upcalld-was");
    let other = entries
        .iter()
        .find(|[from, to, _]| PROGRAMS.contains(from) && !ours(to));
    if let Some([from, to, whose]) = other {
        let by = if *whose == ":" { "the admin" } else { whose };
        return Finding::warning(
            NAME,
            format!("{} is diverted to {} by {}", printable(from), printable(to), printable(by)),
        )
        .why("what the kernel starts there is not the distribution's, and install key cannot divert it a second time")
        .cure(format!("dpkg-divert --list '{}'; what was meant by it?", printable(from)));
    }
    let left = entries
        .iter()
        .any(|[from, to, _]| PROGRAMS.contains(from) && ours(to));
    if left && !host.key().path().exists() {
        return Finding::warning(NAME, "request-key is diverted for upcalld, and its hook is not in")
            .why("an upgrade of keyutils would unpack the program to another name, and leave none at its own")
            .cure(host.context.typed("uninstall key"));
    }
    Finding::ok(NAME, "nobody else's")
}
