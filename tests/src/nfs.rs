//! The kernel's own NFS server and client on the loopback, so that the kernel asks for keys by itself: who a file's owner
//! is, the server says by name. Nothing of nfs-utils: what mountd and idmapd would tell the server is told beforehand.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::command::{command, run};
use crate::sandbox::Sandbox;

/// The domain of the names that the server says.
pub const DOMAIN: &str = "nfs.example";

/// Where the server is told things.
const SERVER: &str = "/proc/fs/nfsd";

/// That what it is told is good for ever, as the seconds that it takes at most.
const FOREVER: u32 = i32::MAX as u32;

/// Of an export (include/uapi/linux/nfsd/export.h): any port may ask; no look at what is above; it has a number, here 0.
const FLAGS: u32 = 0x2 | 0x400 | 0x2000;

/// Modules and whether they say plain numbers for ids, which needs nobody to be asked.
const NUMBERS: [&str; 2] = [
    "/sys/module/nfsd/parameters/nfs4_disable_idmapping",
    "/sys/module/nfs/parameters/nfs4_disable_idmapping",
];

/// A directory that is exported and mounted again; both end with it.
#[derive(Debug)]
pub struct Nfs {
    export: PathBuf,
    at: PathBuf,
    numbers: Vec<String>,
}

impl Nfs {
    /// Exports a fresh directory and mounts it there. Files of uid N are `nN@`[`DOMAIN`]'s for the client, by these ids.
    ///
    /// # Errors
    /// As mount(2), or the server does not start.
    pub fn loopback(sandbox: &Sandbox, at: &Path, ids: &[u32]) -> Result<Self> {
        for module in ["nfsd", "nfsv4"] {
            run(command("modprobe").arg(module))?;
        }
        let numbers = NUMBERS.iter().map(std::fs::read_to_string);
        let nfs = Self {
            export: sandbox.path("export"),
            at: at.to_owned(),
            numbers: numbers.collect::<Result<_, _>>()?,
        };
        std::fs::create_dir_all(&nfs.export)?;
        std::fs::create_dir_all(at)?;
        let none = None::<&str>;
        let empty = MsFlags::empty();
        if !Path::new(SERVER).join("threads").exists() {
            mount(Some("nfsd"), SERVER, Some("nfsd"), empty, none)?;
        }
        nfs.tell(ids)?;
        // Version 4 alone takes no rpcbind.
        tell(format!("{SERVER}/versions"), "-3")?;
        tell(format!("{SERVER}/portlist"), "tcp 2049")?;
        tell(format!("{SERVER}/threads"), "1")?;
        let options =
            "vers=4.1,addr=127.0.0.1,clientaddr=127.0.0.1,sec=sys,soft,timeo=100,retrans=1";
        mount(Some("127.0.0.1:/"), at, Some("nfs4"), empty, Some(options)).context("nfs")?;
        Ok(nfs)
    }

    /// Where files are put that are looked at through the mount.
    pub fn export(&self) -> &Path {
        &self.export
    }

    fn tell(&self, ids: &[u32]) -> Result<()> {
        let channel = |name: &str| format!("/proc/net/rpc/{name}/channel");
        let export = self.export.display();
        tell(
            channel("auth.unix.ip"),
            &format!("nfsd 127.0.0.1 {FOREVER} here"),
        )?;
        tell(
            channel("nfsd.export"),
            &format!("here {export} {FOREVER} {FLAGS} 65534 65534 0"),
        )?;
        tell(
            channel("nfsd.fh"),
            &format!("here 1 \\x00000000 {FOREVER} {export}"),
        )?;
        for (id, kind) in ids.iter().flat_map(|id| [(id, "user"), (id, "group")]) {
            let name = format!("n{id}@{DOMAIN}");
            tell(
                channel("nfs4.idtoname"),
                &format!("here {kind} {id} {FOREVER} {name}"),
            )?;
            tell(
                channel("nfs4.nametoid"),
                &format!("here {kind} {name} {FOREVER} {id}"),
            )?;
        }
        for path in NUMBERS {
            tell(path, "N")?;
        }
        Ok(())
    }
}

/// One line, in one write.
fn tell(path: impl AsRef<Path>, line: &str) -> Result<()> {
    let path = path.as_ref();
    std::fs::write(path, format!("{line}\n")).with_context(|| format!("{}: {line}", path.display()))
}

impl Drop for Nfs {
    fn drop(&mut self) {
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
        drop(tell(format!("{SERVER}/threads"), "0"));
        // What the server has been told holds the directory.
        for cache in ["nfsd.export", "nfsd.fh"] {
            drop(std::fs::write(
                format!("/proc/net/rpc/{cache}/flush"),
                "2147483647\n",
            ));
        }
        for (path, was) in NUMBERS.iter().zip(&self.numbers) {
            drop(std::fs::write(path, was));
        }
    }
}
