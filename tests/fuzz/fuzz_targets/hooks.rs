//! The hooks' own files, read as the daemon, the command and the shim read them, and lines of request-key.d. The first byte
//! says which. Root writes them; one that was cut off or edited must cost no more than itself.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use upcall_helpers::hookfile::HookFile;
use upcalld::hooks::file::CoreHook;
use upcalld::hooks::key::KeyHook;
use upcalld::hooks::module::ModuleHook;
use upcalld::hooks::pattern::DEFAULT_HOOKS;

const FILES: [&str; 4] = [
    "hooks/core",
    "hooks/key",
    "hooks/module",
    "etc/request-key.d/upcalld.conf",
];

/// A host whose hooks are in a directory.
struct Host {
    directory: PathBuf,
    hooks: PathBuf,
    key: KeyHook,
    module: ModuleHook,
}

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let directory = Path::new("/dev/shm").join(format!("upcall-fuzz-{}", std::process::id()));
    for below in ["hooks", "sbin", "etc/request-key.d"] {
        std::fs::create_dir_all(directory.join(below)).expect("room");
    }
    let hooks = directory.join("hooks");
    let (run, libexec) = (Path::new("/run/upcalld"), Path::new("/usr/libexec/upcalld"));
    // Lines are known as ours by these paths.
    let key = KeyHook::host(libexec, Path::new(DEFAULT_HOOKS), run).below(&directory.join("sbin"));
    let module = ModuleHook::host(libexec, &hooks, run);
    assert_eq!(key.lines().path(), directory.join(FILES[3]));
    let host = Host {
        directory,
        hooks,
        key,
        module,
    };
    // What nobody believes, by its owner or mode, would be no test.
    std::fs::write(
        host.directory.join(FILES[0]),
        include_bytes!("../seeds/hooks/core").split_at(1).1,
    )
    .expect("room");
    CoreHook::read(&host.hooks).expect("what is as install writes it is read");
    std::fs::remove_file(host.directory.join(FILES[0])).expect("it was there");
    host
});

fuzz_target!(|data: &[u8]| {
    let Some((which, text)) = data.split_first() else {
        return;
    };
    let path = HOST
        .directory
        .join(FILES[usize::from(*which) % FILES.len()]);
    std::fs::write(&path, text).expect("room");
    for hook in ["core", "key", "module"] {
        let file = HookFile::read(&HOST.hooks, hook);
        assert!(
            file.socket.is_absolute() && file.spool.is_absolute() && file.program.is_absolute()
        );
        assert!(
            file.deadline >= Duration::from_millis(10) && file.deadline <= Duration::from_secs(10)
        );
        assert!(
            file.pass_deadline >= Duration::from_secs(1)
                && file.pass_deadline <= Duration::from_mins(10)
        );
    }
    if let Ok(hook) = CoreHook::read(&HOST.hooks) {
        std::fs::write(&path, hook.text()).expect("room");
        let again = CoreHook::read(&HOST.hooks).expect("what was written is read");
        assert_eq!(again.text(), hook.text());
    }
    drop(HOST.key.lines().standing());
    drop(HOST.module.previous());
    std::fs::remove_file(&path).expect("it was there");
});
