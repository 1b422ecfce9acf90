//! Whose program the kernel starts for keys.

use upcalld::hooks::key::Standing;

use super::finding::Finding;
use super::host::Host;

/// What stands at /sbin/request-key.
pub(super) fn hook(host: &Host<'_>) -> Finding {
    const NAME: &str = "key";
    let hook = host.key();
    let (place, install) = (hook.place(), host.context.typed("install key"));
    let place = place.display();
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
