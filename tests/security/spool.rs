//! What is in the spool and no shim's: never followed, set aside, said, and no harm to what is beside it.

use std::fs::{File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use upcall_e2e::command::until;
use upcall_e2e::cores;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::Outcome;

use crate::scene::{nothing_in, run_rule};

/// A shim's entry: facts and core.
struct Real {
    facts: Vec<u8>,
    name: String,
}

/// Puts an entry's two files down under another id.
struct Forger<'a> {
    spool: &'a Path,
    real: &'a Real,
}

impl Forger<'_> {
    /// Whole facts of this id, and where its core belongs.
    fn facts(&self, id: &str) -> Result<PathBuf> {
        let mut facts = self.real.facts.clone();
        let old = self
            .real
            .name
            .rsplit('-')
            .next()
            .unwrap_or_default()
            .as_bytes();
        let at = facts
            .windows(8)
            .position(|window| window == old)
            .unwrap_or(0);
        if let Some(place) = facts.get_mut(at..at + 8) {
            place.copy_from_slice(id.as_bytes());
        }
        self.put(&format!("{}.facts", self.name(id)), &facts)?;
        Ok(self.spool.join(format!("{}.core", self.name(id))))
    }

    fn name(&self, id: &str) -> String {
        let time = self.real.name.split('-').next().unwrap_or_default();
        format!("{time}-{id}")
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.spool.join(name);
        std::fs::write(&path, bytes)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(path)
    }
}

#[test]
fn nothing_is_followed_and_everything_is_set_aside() -> Result<()> {
    needs!(Root, Runc);
    let sandbox = Sandbox::new()?;
    sandbox.rules(&run_rule(r#""/helper""#, ""))?;
    let container = Runc::new("web").user_namespace().start(&sandbox)?;
    let dump = CoreDump::of(container.init())?.bytes(50_000);
    dump.dump(&sandbox)?;
    let spool = sandbox.spool();
    let names = std::fs::read_dir(&spool)?.flatten();
    let names: Vec<String> = names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let name = names.iter().find_map(|name| name.strip_suffix(".facts"));
    let name = name.unwrap_or_default().to_owned();
    let facts = std::fs::read(spool.join(format!("{name}.facts")))?;
    let real = Real { facts, name };
    let forger = Forger {
        spool: &spool,
        real: &real,
    };

    // A secret of the host's, to be had as "the core of a container".
    let secret = sandbox.path("secret");
    std::fs::write(&secret, "the host's own")?;
    std::fs::set_permissions(&secret, Permissions::from_mode(0o600))?;
    symlink(&secret, forger.facts("aaaaaaa0")?)?;
    std::fs::hard_link(&secret, forger.facts("aaaaaaa1")?)?;
    nix::unistd::mkfifo(
        &forger.facts("aaaaaaa2")?,
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )?;
    std::fs::create_dir(forger.facts("aaaaaaa3")?)?;
    let theirs = forger.facts("aaaaaaa4")?;
    std::fs::write(&theirs, "somebody's")?;
    chown(&theirs, Some(1000), Some(1000))?;
    let open = forger.facts("aaaaaaa5")?;
    std::fs::write(&open, "for everybody")?;
    std::fs::set_permissions(&open, Permissions::from_mode(0o666))?;
    // Facts that are none.
    forger.put(&format!("{}.facts", forger.name("aaaaaaa6")), b"nonsense")?;
    let cut = real.facts.get(..60).unwrap_or_default();
    forger.put(&format!("{}.facts", forger.name("aaaaaaa7")), cut)?;
    let huge = forger.put(&format!("{}.facts", forger.name("aaaaaaa8")), b"")?;
    File::options().write(true).open(&huge)?.set_len(1 << 40)?;
    forger.put(&format!("{}.facts", forger.name("aaaaaaa9")), &real.facts)?;
    symlink(
        &secret,
        spool.join(format!("{}.facts", forger.name("bbbbbbb0"))),
    )?;
    // Cores without facts, and names that no shim gives.
    forger.put(&format!("{}.core", forger.name("bbbbbbb1")), b"alone")?;
    forger.put("core.17", b"x")?;
    forger.put("%s%n;$(reboot)", b"x")?;
    symlink("/", spool.join("root"))?;
    std::fs::create_dir(spool.join("directory"))?;

    let daemon = Daemon::start(&sandbox)?;
    let record = daemon.records().of(container.init())?;
    assert_eq!(record.outcome, Outcome::Partial);
    assert_eq!(cores::kept(&sandbox.state(), &record.id)?, dump.core());
    let aside = spool.join("aside");
    until(Duration::from_secs(5), "everything to be set aside", || {
        let left = std::fs::read_dir(&spool).ok()?.flatten();
        let left: Vec<_> = left.filter(|entry| entry.path() != aside).collect();
        left.is_empty().then_some(())
    })?;
    // One record, one core, and what is aside is what was put there.
    assert_eq!(daemon.records().all().len(), 1);
    assert_eq!(std::fs::read_dir(sandbox.state().join("cores"))?.count(), 1);
    assert_eq!(std::fs::read_to_string(&secret)?, "the host's own");
    let link = aside.join(format!("{}.core", forger.name("aaaaaaa0")));
    assert_eq!(std::fs::read_link(link)?, secret);
    for word in [
        "is set aside",
        "not a plain file that is root's alone",
        "no shim gives",
    ] {
        daemon.logs(word)?;
    }
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    daemon.stop(&sandbox)
}

#[test]
fn a_spool_that_others_can_write_is_not_looked_at() -> Result<()> {
    needs!(Root, Runc);
    let sandbox = Sandbox::new()?;
    let container = Runc::new("web").user_namespace().start(&sandbox)?;
    CoreDump::of(container.init())?.dump(&sandbox)?;
    for (mode, owner) in [(0o777, 0), (0o700, 1000)] {
        std::fs::set_permissions(sandbox.spool(), Permissions::from_mode(mode))?;
        chown(sandbox.spool(), Some(owner), None)?;
        let daemon = Daemon::start(&sandbox)?;
        daemon.logs("is not root's alone")?;
        assert!(daemon.records().all().is_empty());
        assert!(!nothing_in(&sandbox.spool()));
        daemon.stop(&sandbox)?;
    }
    Ok(())
}
