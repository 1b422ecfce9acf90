//! Whether this process has descriptors left: for want of them a container is not found, and a core not kept.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

/// As many as it takes to look at a process and at the init of its container, and some more.
const TO_LOOK: usize = 40;

/// As many as it takes to keep a core.
const TO_KEEP: usize = 8;

/// That there are as many descriptors free as are needed further on. Where no container was found, that is as many as
/// whoever looks for one needs: to the rules somebody without a container is not one whose container could not be looked
/// for.
///
/// # Errors
/// `EMFILE`, `ENFILE`: there are not.
pub fn is_there(found: bool) -> Result<(), Errno> {
    let wanted = if found { TO_KEEP } else { TO_LOOK };
    let first = nix::sys::eventfd::EventFd::new().map(OwnedFd::from)?;
    let mut held = Vec::with_capacity(wanted);
    for _ in 1..wanted {
        held.push(
            first
                .try_clone()
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EMFILE)))?,
        );
    }
    Ok(())
}
