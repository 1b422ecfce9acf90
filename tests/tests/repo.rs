//! The repository's own promises: who knows whom, where unsafe is, what is linked, how long a file gets.

#[cfg(test)]
mod promises {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::{Path, PathBuf};

    use anyhow::{Context, Result, ensure};
    use serde_json::Value;
    use upcall_e2e::command::{command, run};
    use upcall_e2e::programs::{Programs, target};

    /// Who may know whom (docs/architecture.md).
    const MAY_KNOW: [(&str, &[&str]); 4] = [
        ("upcall-config", &[]),
        ("upcall-helpers", &[]),
        ("upcalld", &["upcall-config", "upcall-helpers"]),
        (
            "upcall-e2e",
            &["upcall-config", "upcall-helpers", "upcalld"],
        ),
    ];

    /// The longest that a file may be, and the length from which it is looked at.
    const LINES: (usize, usize) = (500, 400);

    /// The largest that a program may be that the kernel starts for every crash.
    const BYTES: u64 = 1_300_000;
    /// zstd is most of it.
    const BYTES_WITH_ZSTD: u64 = 2 << 20;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    fn cargo() -> std::process::Command {
        let mut cargo = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(root());
        cargo
    }

    /// Every file that is kept under version control; in an unpacked archive, every file.
    fn files() -> Result<Vec<PathBuf>> {
        let listed = run(command("git")
            .arg("-C")
            .arg(root())
            .args(["ls-files", "-z"]));
        let files = listed.or_else(|_| {
            let find = "find . -type f -not -path './target/*' -not -path '*/target/*' -print0";
            run(command("sh").args(["-c", find]).current_dir(root()))
        })?;
        let files = files.split('\0').filter(|name| !name.is_empty());
        let files: Vec<PathBuf> = files
            .map(|name| root().join(name))
            .filter(|path| path.is_file())
            .collect();
        ensure!(
            files.len() > 100,
            "that is not the whole repository: {files:?}"
        );
        Ok(files)
    }

    fn sources() -> Result<Vec<PathBuf>> {
        let is_rust = |path: &PathBuf| path.extension() == Some("rs".as_ref());
        Ok(files()?.into_iter().filter(is_rust).collect())
    }

    fn packages() -> Result<Vec<Value>> {
        let metadata =
            run(cargo().args(["metadata", "--format-version=1", "--no-deps", "--offline"]))?;
        let metadata: Value = serde_json::from_str(&metadata)?;
        let packages = metadata.get("packages").and_then(Value::as_array);
        Ok(packages.context("packages")?.clone())
    }

    fn text<'a>(value: &'a Value, key: &str) -> &'a str {
        value.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    #[test]
    fn nobody_knows_whom_he_should_not() -> Result<()> {
        let allowed: BTreeMap<_, _> = MAY_KNOW.into_iter().collect();
        let packages = packages()?;
        let names: BTreeSet<&str> = packages
            .iter()
            .map(|package| text(package, "name"))
            .collect();
        assert_eq!(
            names,
            allowed.keys().copied().collect(),
            "a crate that the law does not name"
        );
        for package in &packages {
            let name = text(package, "name");
            let known = package
                .get("dependencies")
                .and_then(Value::as_array)
                .context("dependencies")?;
            for dependency in known
                .iter()
                .filter(|dependency| names.contains(text(dependency, "name")))
            {
                let whom = text(dependency, "name");
                let allowed = allowed
                    .get(name)
                    .is_some_and(|allowed| allowed.contains(&whom));
                assert!(allowed, "{name} knows {whom}");
                if whom == "upcall-helpers" {
                    // The wire and its socket, and none of the programs.
                    let default =
                        dependency.get("uses_default_features") == Some(&Value::Bool(true));
                    let features = dependency.get("features").and_then(Value::as_array);
                    let programs = features.is_some_and(|all| all.contains(&"programs".into()));
                    assert!(!default && !programs, "{name} links the programs of {whom}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn what_the_kernel_starts_links_little() -> Result<()> {
        let tree = [
            "tree",
            "--offline",
            "--edges=normal",
            "--prefix=none",
            "--package=upcall-helpers",
        ];
        let tree = run(cargo().args(tree))?;
        let linked: BTreeSet<&str> = tree
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        for heavy in [
            "tokio",
            "serde",
            "serde_core",
            "serde_json",
            "toml",
            "clap",
            "tracing",
            "anyhow",
        ] {
            assert!(!linked.contains(heavy), "{heavy} in {linked:?}");
        }
        assert!(linked.len() <= 8, "{linked:?}");
        Ok(())
    }

    #[test]
    fn every_crate_has_the_lints_of_all() -> Result<()> {
        for package in packages()? {
            let manifest = std::fs::read_to_string(text(&package, "manifest_path"))?;
            let lints = manifest
                .split("[lints]")
                .nth(1)
                .unwrap_or_default()
                .trim_start();
            assert!(
                lints.starts_with("workspace = true"),
                "{}",
                text(&package, "name")
            );
        }
        Ok(())
    }

    /// A line of code without its comment and its texts, as far as the search below needs it.
    fn bare(line: &str) -> String {
        let code = line.split("//").next().unwrap_or_default();
        code.split('"').step_by(2).collect()
    }

    #[test]
    fn unsafe_is_where_it_is_looked_for() -> Result<()> {
        let mut folders = 0;
        for path in sources()? {
            let named = path.file_name() == Some("sys.rs".as_ref());
            let below = path.components().any(|part| part.as_os_str() == "sys");
            let text = std::fs::read_to_string(&path)?;
            let word = |line: &str| {
                let words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
                words
                    .into_iter()
                    .any(|word| word == "unsafe" || word == "unsafe_code")
            };
            let has = text.lines().any(|line| {
                let bare = bare(line);
                word(&bare)
                    && !bare.contains("forbid(unsafe_code)")
                    && !bare.contains("deny(unsafe_code)")
            });
            assert!(!has || named || below, "{}", path.display());
            folders += usize::from(has);
        }
        assert!(folders >= 4, "the search finds nothing any more: {folders}");
        Ok(())
    }

    #[test]
    fn no_file_outgrows_its_reader() -> Result<()> {
        let mut outgrown = Vec::new();
        for path in sources()? {
            let lines = std::fs::read_to_string(&path)?.lines().count();
            if lines > LINES.1 {
                eprintln!("{lines} lines: {}", path.display());
            }
            if lines > LINES.0 {
                outgrown.push(path);
            }
        }
        assert!(outgrown.is_empty(), "over {} lines: {outgrown:?}", LINES.0);
        Ok(())
    }

    /// The names of all tests, wherever they are.
    fn tests() -> Result<BTreeSet<String>> {
        tests_in(sources()?)
    }

    fn tests_in(sources: Vec<PathBuf>) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for path in sources {
            let text = std::fs::read_to_string(path)?;
            let mut marked = false;
            for line in text.lines().map(str::trim) {
                if line == "#[test]" || line.starts_with("#[tokio::test") {
                    marked = true;
                } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| marked) {
                    names.extend(rest.split_once('(').map(|(name, _)| name.to_owned()));
                    marked = false;
                }
            }
        }
        Ok(names)
    }

    #[test]
    fn every_threat_is_played_by_a_test_that_exists() -> Result<()> {
        let tests = tests()?;
        let page = std::fs::read_to_string(root().join("docs/threat-model.md"))?;
        let mut threats = 0;
        let mut in_table = false;
        for line in page.lines() {
            let columns: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, threat, _, named, _] = columns.as_slice() else {
                in_table = false;
                continue;
            };
            if *named == "test" || named.starts_with("--") {
                in_table |= *named == "test";
                continue;
            }
            if !in_table {
                continue;
            }
            let named: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
            assert!(!named.is_empty(), "no test plays: {threat}");
            for name in named {
                assert!(tests.contains(name), "{threat}: there is no test {name}");
            }
            threats += 1;
        }
        assert!(threats >= 30, "the tables are not read any more: {threats}");
        Ok(())
    }

    #[test]
    fn every_attack_that_is_played_is_a_threat_of_the_page() -> Result<()> {
        let page = std::fs::read_to_string(root().join("docs/threat-model.md"))?;
        let below = root().join("tests/security");
        let attacks = sources()?
            .into_iter()
            .filter(|path| path.starts_with(&below));
        let attacks = tests_in(attacks.collect())?;
        let missing: Vec<&String> = attacks
            .iter()
            .filter(|attack| !page.contains(&format!("`{attack}`")))
            .collect();
        assert!(missing.is_empty(), "no threat names: {missing:#?}");
        assert!(attacks.len() >= 40, "attacks are not found any more");
        Ok(())
    }

    #[test]
    fn every_bad_day_is_played_by_a_test_that_exists() -> Result<()> {
        let tests = tests()?;
        let page = std::fs::read_to_string(root().join("docs/bad-days.md"))?;
        let rows = page
            .lines()
            .map(|line| line.split('|').collect::<Vec<&str>>());
        let mut days = 0;
        for row in rows.filter(|row| row.len() == 6) {
            let [_, day, _, _, last, _] = row.as_slice() else {
                continue;
            };
            if last.trim() == "test" || last.starts_with('-') {
                continue;
            }
            let named: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
            assert!(!named.is_empty(), "no test plays: {day}");
            for name in named {
                assert!(tests.contains(name), "{day}: there is no test {name}");
            }
            days += 1;
        }
        assert!(days >= 30, "the tables are not read any more: {days}");
        Ok(())
    }

    #[test]
    fn every_test_of_a_degraded_path_exists() -> Result<()> {
        let tests = tests()?;
        let page = std::fs::read_to_string(root().join("docs/kernel-support.md"))?;
        let rows = page
            .lines()
            .map(|line| line.split('|').collect::<Vec<&str>>());
        let mut named = 0;
        for row in rows.filter(|row| row.len() == 7) {
            let last = row.get(5).copied().unwrap_or_default();
            for name in last.split('`').skip(1).step_by(2) {
                assert!(tests.contains(name), "there is no test {name}");
                named += 1;
            }
        }
        assert!(named >= 4, "the table is not read any more: {named}");
        Ok(())
    }

    #[test]
    fn links_between_pages_lead_somewhere() -> Result<()> {
        let mut links = 0;
        for page in files()?
            .iter()
            .filter(|path| path.extension() == Some("md".as_ref()))
        {
            let text = std::fs::read_to_string(page)?;
            let directory = page.parent().context("a directory")?;
            for link in text
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split(')').next())
            {
                let target = link.split('#').next().unwrap_or_default();
                if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                assert!(
                    directory.join(target).exists(),
                    "{}: {link}",
                    page.display()
                );
                links += 1;
            }
        }
        assert!(links >= 8, "links are not found any more: {links}");
        Ok(())
    }

    #[test]
    fn nothing_in_the_tree_knows_the_machine_it_was_made_on() -> Result<()> {
        // In two parts, so that this file does not name them.
        let places = [
            ("/wo", "rk/"),
            ("/va", "r/tmp/rt"),
            ("/ro", "ot/."),
            ("/ho", "me/"),
            ("/tm", "p/target-"),
        ];
        for path in files()? {
            let Ok(text) = std::fs::read_to_string(&path) else {
                continue;
            };
            for (start, end) in places {
                let place = format!("{start}{end}");
                let line = text.lines().position(|line| line.contains(&place));
                assert!(
                    line.is_none(),
                    "{}:{}: {place}",
                    path.display(),
                    line.unwrap_or(0) + 1
                );
            }
        }
        Ok(())
    }

    #[test]
    fn what_the_kernel_starts_is_static_and_small() -> Result<()> {
        let programs = Programs::get()?;
        for program in [
            "upcall-shim",
            "upcall-enter",
            "upcall-store",
            "upcall-place",
        ] {
            let path = programs.directory.join(program);
            let size = std::fs::metadata(&path)
                .with_context(|| format!("{}", path.display()))?
                .len();
            let most = if program == "upcall-store" {
                BYTES_WITH_ZSTD
            } else {
                BYTES
            };
            assert!(size <= most, "{program} has {size} bytes");
            let facts = run(command("readelf")
                .args(["--wide", "-h", "-l", "-d"])
                .arg(&path))?;
            assert!(
                facts.contains("DYN (Position-Independent Executable file)"),
                "{program}: {facts}"
            );
            assert!(facts.contains("PIE"), "{program}: {facts}");
            for dynamic in ["INTERP", "NEEDED", "RPATH", "RUNPATH"] {
                assert!(!facts.contains(dynamic), "{program} has {dynamic}");
            }
            let stack = facts.lines().find(|line| line.contains("GNU_STACK"));
            assert!(
                stack.is_some_and(|line| line.contains("RW ")),
                "{program}: {stack:?}"
            );
            assert!(facts.contains("GNU_RELRO"), "{program}");
        }
        Ok(())
    }

    #[test]
    fn what_the_kernel_starts_looks_up_no_names() -> Result<()> {
        // NSS and iconv load libraries also into static programs: those of the container, where it is entered.
        let directory = target().join("symbols");
        for program in [
            "upcall-shim",
            "upcall-enter",
            "upcall-store",
            "upcall-place",
        ] {
            let mut build = cargo();
            build.args([
                "rustc",
                "--quiet",
                "--offline",
                "--package=upcall-helpers",
                "--profile=helper",
            ]);
            build.args(["--config", "profile.helper.strip=false", "--bin", program]);
            build
                .args(["--", "-Ctarget-feature=+crt-static"])
                .env("CARGO_TARGET_DIR", &directory);
            run(&mut build)?;
            let symbols = run(command("nm").arg(directory.join("helper").join(program)))?;
            let defined: BTreeSet<&str> = symbols
                .lines()
                .filter_map(|line| line.split(' ').nth(2))
                .collect();
            assert!(defined.contains("main"), "{program}: nm finds nothing");
            for name in [
                "getaddrinfo",
                "gethostbyname",
                "getpwnam",
                "getpwnam_r",
                "getpwuid_r",
                "getgrnam",
                "__nss_database_get",
                "__nss_lookup_function",
                "iconv_open",
            ] {
                assert!(!defined.contains(name), "{program} has {name}");
            }
        }
        Ok(())
    }
}
