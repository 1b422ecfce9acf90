//! Reading: which files count, and whom they are believed from.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use upcall_config::Directories;
use upcall_config::diagnostic::Code;
use upcall_config::file::{Loaded, load};
use upcall_config::settings::Settings;

use crate::given::keeps;

/// Three directories in the order of their precedence, owned by whoever runs the test.
struct Tree {
    top: TempDir,
}

impl Tree {
    fn new() -> Self {
        let tree = Self {
            top: TempDir::new().unwrap(),
        };
        for name in ["etc", "run", "usr"] {
            let rules = tree.path(name).join("rules.d");
            fs::create_dir_all(&rules).unwrap();
            for directory in [tree.path(name), rules] {
                fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        tree
    }

    fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    fn owner(&self) -> u32 {
        self.top.path().metadata().unwrap().uid()
    }

    /// A file with the right owner and mode.
    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    fn load_as(&self, owner: u32) -> Loaded {
        let directories = Directories {
            paths: ["etc", "run", "usr"].map(|name| self.path(name)).to_vec(),
            owner,
        };
        load(&directories)
    }

    fn load(&self) -> Loaded {
        self.load_as(self.owner())
    }

    /// What is said, without the place of the tree.
    fn said(&self, loaded: &Loaded) -> String {
        let shown: Vec<_> = loaded.diagnostics.iter().map(|d| d.render(false)).collect();
        shown
            .join("\n")
            .replace(self.top.path().to_str().unwrap(), "")
            .replace(&format!("uid {}", self.owner()), "uid OWNER")
            .replace("than uid OWNER", "than root")
            .replace(&format!("{0}:{0}", self.owner()), "OWNER:OWNER")
    }

    fn names(&self, loaded: &Loaded) -> Vec<String> {
        let shown = |path: &Path| {
            path.strip_prefix(self.top.path())
                .unwrap()
                .display()
                .to_string()
        };
        loaded.files.iter().map(|path| shown(path)).collect()
    }
}

fn signals(loaded: &Loaded) -> Vec<String> {
    let rules = loaded.policy.as_ref().unwrap();
    rules
        .rules()
        .iter()
        .map(|rule| rule.source().to_string())
        .collect()
}

#[test]
fn nothing_there_is_nothing_wrong() {
    let tree = Tree::new();
    let loaded = tree.load();
    assert_eq!(loaded.diagnostics, []);
    assert!(loaded.files.is_empty());
    assert_eq!(loaded.settings, Settings::default());
    assert!(loaded.policy.unwrap().rules().is_empty());

    fs::remove_dir(tree.path("run/rules.d")).unwrap();
    fs::remove_dir_all(tree.path("usr")).unwrap();
    assert!(tree.load().policy.is_some());
}

#[test]
fn files_are_ordered_by_name_and_the_same_name_is_taken_once() {
    let tree = Tree::new();
    tree.file(
        "usr/rules.d/90-default.toml",
        keeps("match.core.signal = \"SEGV\""),
    );
    tree.file(
        "usr/rules.d/20-first.toml",
        keeps("match.core.signal = \"BUS\""),
    );
    tree.file(
        "run/rules.d/50-b.toml",
        keeps("match.core.signal = \"FPE\""),
    );
    tree.file(
        "etc/rules.d/50-a.toml",
        keeps("match.core.signal = \"ILL\""),
    );
    tree.file(
        "etc/rules.d/90-default.toml",
        keeps("match.core.signal = \"ABRT\""),
    );
    tree.file("run/rules.d/90-default.toml", "this is not looked at");
    for ignored in [
        "etc/rules.d/.50-a.toml",
        "etc/rules.d/50-a.toml~",
        "etc/rules.d/README",
    ] {
        tree.file(ignored, "this is not looked at");
    }
    let loaded = tree.load();
    assert_eq!(tree.said(&loaded), "");
    assert_eq!(
        tree.names(&loaded),
        [
            "usr/rules.d/20-first.toml",
            "etc/rules.d/50-a.toml",
            "run/rules.d/50-b.toml",
            "etc/rules.d/90-default.toml"
        ]
    );
    assert_eq!(
        signals(&loaded),
        [
            "20-first.toml:1",
            "50-a.toml:1",
            "50-b.toml:1",
            "90-default.toml:1"
        ]
    );
}

#[test]
fn an_empty_file_turns_a_shipped_one_off() {
    let tree = Tree::new();
    tree.file("usr/rules.d/90-default.toml", keeps(""));
    assert_eq!(tree.load().policy.unwrap().rules().len(), 1);
    tree.file("etc/rules.d/90-default.toml", "");
    assert_eq!(tree.load().policy.unwrap().rules().len(), 0);
}

#[test]
fn settings_are_taken_from_one_file() {
    let tree = Tree::new();
    tree.file(
        "usr/upcalld.toml",
        "[limits]\nconcurrent = 1\nper_container = 1\n",
    );
    tree.file("etc/upcalld.toml", "[limits]\nconcurrent = 2\n");
    let loaded = tree.load();
    assert_eq!(tree.names(&loaded), ["etc/upcalld.toml"]);
    assert_eq!(
        (
            loaded.settings.limits.concurrent,
            loaded.settings.limits.per_container
        ),
        (2, 8)
    );
}

#[test]
fn every_setting_is_read() {
    let tree = Tree::new();
    let text = r#"
        store.keep_free = "1GiB"
        limits = { concurrent = 3, per_container = 2 }
        hooks.retake = true
        records.keep = 7
        metrics.textfile = "/m/u.prom"
        [runtimes]
        runc = ["/a", "/b"]
        crun = []
        podman_graphroot = "/c"
        podman_runroot = "/d"
    "#;
    tree.file("etc/upcalld.toml", text);
    let loaded = tree.load();
    assert_eq!(tree.said(&loaded), "");
    let Settings {
        store,
        limits,
        hooks,
        runtimes,
        records,
        metrics,
    } = loaded.settings;
    assert_eq!(store.keep_free, 1 << 30);
    assert_eq!((limits.concurrent, limits.per_container), (3, 2));
    assert!(hooks.retake);
    assert_eq!(records.keep, 7);
    assert_eq!(runtimes.runc, ["/a", "/b"].map(PathBuf::from));
    assert!(runtimes.crun.is_empty());
    assert_eq!(runtimes.podman_graphroot, Path::new("/c"));
    assert_eq!(runtimes.podman_runroot, Path::new("/d"));
    assert_eq!(metrics.textfile.as_deref(), Some(Path::new("/m/u.prom")));
}

#[test]
fn mistakes_of_all_files_come_in_one_run() {
    let tree = Tree::new();
    tree.file("etc/upcalld.toml", "[limits]\nconcurent = 1\n");
    tree.file("etc/rules.d/10.toml", "[[rule]\n");
    tree.file("etc/rules.d/20.toml", b"[[rule]]\n# \xff\n");
    tree.file(
        "usr/rules.d/30.toml",
        "[[rule]]\nupcall = \"cor\"\nstore = {}\n",
    );
    let loaded = tree.load();
    assert!(loaded.policy.is_none());
    assert_eq!(loaded.errors(), 4);
    insta::assert_snapshot!(tree.said(&loaded));
}

#[test]
fn a_warning_leaves_the_policy_usable() {
    let tree = Tree::new();
    tree.file("etc/rules.d/10.toml", keeps(""));
    tree.file(
        "usr/rules.d/20.toml",
        format!("\n{}", keeps("match.container = {}")),
    );
    let loaded = tree.load();
    assert_eq!((loaded.errors(), loaded.warnings()), (0, 1));
    assert_eq!(loaded.policy.as_ref().unwrap().rules().len(), 2);
    insta::assert_snapshot!(tree.said(&loaded));
}

#[test]
fn files_that_others_could_have_written_are_refused() {
    let tree = Tree::new();
    let path = tree.file("etc/rules.d/10.toml", keeps(""));
    for mode in [0o664, 0o646, 0o666] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let loaded = tree.load();
        assert!(loaded.policy.is_none(), "{mode:o}");
        assert_eq!(loaded.diagnostics[0].code(), Code::UntrustedFile);
    }
    insta::assert_snapshot!(tree.said(&tree.load()));
    for mode in [0o644, 0o600, 0o640, 0o444] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(tree.load().policy.is_some(), "{mode:o}");
    }
}

#[test]
fn files_and_directories_of_another_owner_are_refused() {
    let tree = Tree::new();
    tree.file("etc/rules.d/10.toml", keeps(""));
    let loaded = tree.load_as(tree.owner() + 1);
    assert!(loaded.policy.is_none());
    assert!(loaded.files.is_empty());
    assert_eq!(
        loaded.diagnostics.len(),
        3,
        "the directories themselves, nothing behind them"
    );
    assert!(
        loaded
            .diagnostics
            .iter()
            .all(|d| d.code() == Code::UntrustedFile)
    );
    assert!(loaded.diagnostics[0].render(false).contains("chown"));
}

#[test]
fn directories_that_others_can_write_are_refused() {
    for name in ["etc", "etc/rules.d"] {
        let tree = Tree::new();
        tree.file("etc/rules.d/10.toml", keeps(""));
        fs::set_permissions(tree.path(name), fs::Permissions::from_mode(0o777)).unwrap();
        let loaded = tree.load();
        assert!(loaded.policy.is_none(), "{name}");
        assert_eq!(loaded.diagnostics[0].code(), Code::UntrustedFile);
        assert_eq!(loaded.diagnostics[0].file(), tree.path(name));
        assert!(loaded.files.is_empty());
    }
}

#[test]
fn links_and_special_files_and_large_files_are_refused() {
    let tree = Tree::new();
    let outside = tree.file("outside.toml", keeps(""));
    symlink(&outside, tree.path("etc/rules.d/10.toml")).unwrap();
    fs::create_dir(tree.path("etc/rules.d/20.toml")).unwrap();
    tree.file("etc/rules.d/30.toml", vec![b'\n'; (1 << 20) + 1]);
    symlink("/nonexistent", tree.path("etc/upcalld.toml")).unwrap();
    let loaded = tree.load();
    assert_eq!(loaded.errors(), 4);
    assert!(loaded.files.is_empty());
    insta::assert_snapshot!(tree.said(&loaded));
}

#[test]
fn a_file_of_exactly_a_mebibyte_is_read() {
    let tree = Tree::new();
    tree.file("etc/rules.d/30.toml", vec![b'\n'; 1 << 20]);
    assert!(tree.load().policy.is_some());
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "std cannot make a FIFO, mkfifo(1) can"
)]
fn a_fifo_is_refused_and_not_waited_for() {
    let tree = Tree::new();
    let path = tree.path("etc/rules.d/10.toml");
    let made = std::process::Command::new("mkfifo")
        .arg("-m644")
        .arg(path)
        .status()
        .unwrap();
    assert!(made.success());
    let (done, loaded) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(tree.load().errors()));
    let loaded = loaded.recv_timeout(std::time::Duration::from_secs(10));
    assert_eq!(
        loaded,
        Ok(1),
        "a timeout here: it waits for somebody to write"
    );
}

#[test]
fn what_hides_a_file_is_not_skipped_because_it_is_wrong() {
    let tree = Tree::new();
    tree.file("usr/rules.d/10.toml", keeps(""));
    let path = tree.file("etc/rules.d/10.toml", keeps(""));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(tree.load().policy.is_none());
}

#[test]
fn a_single_directory_is_all_there_is() {
    let tree = Tree::new();
    tree.file("usr/rules.d/10.toml", keeps(""));
    let directories = Directories::single(tree.path("usr")).owned_by(tree.owner());
    assert_eq!(load(&directories).policy.unwrap().rules().len(), 1);
    let directories = Directories::single(tree.path("etc")).owned_by(tree.owner());
    assert_eq!(load(&directories).policy.unwrap().rules().len(), 0);
    assert_eq!(Directories::system().paths[0], Path::new("/etc/upcalld"));
    assert_eq!(Directories::system().owner, 0);
}

#[test]
fn numbers_of_files_rules_and_diagnostics_are_bounded() {
    let tree = Tree::new();
    for number in 0..257 {
        tree.file(&format!("etc/rules.d/{number:03}.toml"), "");
    }
    let loaded = tree.load();
    assert_eq!((loaded.errors(), loaded.files.len()), (1, 256));
    assert_eq!(loaded.diagnostics[0].code(), Code::BadRange);

    let tree = Tree::new();
    let rule = keeps("match.process.uid = 1").replace('\n', "\r\n");
    tree.file("etc/rules.d/10.toml", rule.repeat(4096));
    assert!(tree.load().policy.is_some());
    assert_eq!((tree.load().rules, tree.load().warnings()), (4096, 100));
    tree.file("etc/rules.d/20.toml", &rule);
    let loaded = tree.load();
    assert_eq!((loaded.errors(), loaded.policy.is_some()), (1, false));

    let tree = Tree::new();
    tree.file("etc/rules.d/10.toml", "[[rule]]\nupcall = 1\n".repeat(1000));
    let loaded = tree.load();
    assert_eq!(loaded.diagnostics.len(), 100);
    assert!(
        loaded
            .diagnostics
            .iter()
            .any(|d| d.render(false).contains("is not shown"))
    );

    let tree = Tree::new();
    let costly = format!("match.process.exe = [{}]", "\"[a]x\", ".repeat(256));
    tree.file("etc/rules.d/10.toml", keeps(&costly).repeat(33));
    assert!(
        tree.load()
            .diagnostics
            .iter()
            .any(|d| d.message().contains("8192 patterns"))
    );
}
