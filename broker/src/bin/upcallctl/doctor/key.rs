//! Whose program the kernel starts for keys.

use upcalld::hooks::key::line::Lines;
use upcalld::hooks::key::{KeyHook, Standing};

use super::finding::Finding;
use super::host::Host;

const NAME: &str = "key";

/// What stands at /sbin/request-key, and in its configuration.
pub(super) fn hook(host: &Host<'_>) -> Finding {
    let hook = host.key();
    let (place, install) = (hook.place(), host.context.typed("install key"));
    let place = place.display();
    if let Some(wrong) = hook.wrong() {
        let cure = host.context.typed(wrong.cure());
        let finding = Finding::error(NAME, wrong.to_string());
        return finding.why(wrong.meaning()).cure(cure);
    }
    if let Some(found) = lines(host, &hook) {
        return found;
    }
    match (hook.standing(), hook.path().exists()) {
        (Standing::Ours, true) => Finding::ok(NAME, format!("{place} is ours")),
        (Standing::Ours, false) => {
            Finding::error(NAME, format!("{place} is ours, but its file is gone"))
                .why("the shim goes by defaults, and `pass` may lead nowhere")
                .cure(install)
        }
        (Standing::Lost, _) => Finding::error(NAME, format!("{place} is not ours any more"))
            .why("a package or somebody else has written it: no rule of yours applies to keys")
            .cure(install),
        (Standing::Another, _) => Finding::warning(NAME, format!("{place} is another upcalld's"))
            .why("no rule of this one applies to keys")
            .cure("upcallctl with that one's --config, uninstall key; then install this one"),
        (Standing::Foreign | Standing::Nothing, _) => Finding::ok(
            NAME,
            format!("{place} is not ours, nor is it to be ({install})"),
        ),
    }
}

/// Whether keys come to us by lines of request-key.conf, and all that should.
fn lines(host: &Host<'_>, hook: &KeyHook) -> Option<Finding> {
    let lines = hook.lines();
    let Lines::Ours(ours) = lines.standing() else {
        return None;
    };
    let path = lines.path();
    let install = host.context.typed("install key --mode line");
    if !hook.path().exists() {
        let what = format!("{} is ours, but the hook's file is gone", path.display());
        let finding = Finding::error(NAME, what);
        return Some(finding.why("the shim goes by defaults").cure(install));
    }
    let wrong = ours.iter().find_map(|line| lines.check(line).err());
    if let Some(error) = wrong {
        let finding = Finding::error(NAME, format!("{}: {error}", path.display()));
        let why = "no rule of yours applies to them: another line fits as well and is read first, or fits better";
        let cure = format!("take that line out, or this type: {install} --type …");
        return Some(finding.why(why).cure(cure));
    }
    let kinds: Vec<&str> = ours.iter().map(|line| line.kind.as_str()).collect();
    let what = format!("{} is ours, for {}", path.display(), kinds.join(" "));
    Some(Finding::ok(NAME, what))
}
