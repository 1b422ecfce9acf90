//! The program that a kernel with CONFIG_STATIC_USERMODEHELPER starts for everything.

use upcall_config::text::printable;
use upcalld::hooks::pattern::Pattern;
use upcalld::hooks::umh::Standing;

use super::finding::Finding;
use super::host::Host;

/// What stands in that place, and who comes that way without being known to.
pub(super) fn hook(host: &Host<'_>) -> Finding {
    const NAME: &str = "umh";
    let hook = host.umh();
    let (place, install) = (hook.place(), host.context.typed("install umh"));
    let place = place.display();
    if hook.is_lost() {
        return Finding::error(NAME, format!("{place} is not ours any more"))
            .why("where the kernel starts it for everything, no rule of yours applies, or it starts nothing")
            .cure(install);
    }
    if hook.standing() != Standing::Ours {
        let what = format!("{place} is not ours, nor is it to be ({install})");
        return Finding::ok(NAME, what);
    }
    let core = host.sysctl.read().map(|standing| standing.pattern);
    match core {
        Ok(Pattern::Pipe(pattern)) if !host.is_ours() => Finding::warning(
            NAME,
            format!("{place} is ours, and core_pattern is not: {}", printable(&pattern)),
        )
        .why("the kernel starts us for that program too, which the rules that come with upcalld do not know")
        .cure(format!("{}, or a rule with match.umh", host.context.typed("install core"))),
        Ok(_) | Err(_) => Finding::ok(NAME, format!("{place} is ours")),
    }
}
