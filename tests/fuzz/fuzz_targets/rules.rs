//! Rule files and settings: read to the end whatever is in them, and every mistake can be shown.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use upcall_config::file::load_texts;

fuzz_target!(|text: &str| {
    let rules = load_texts(None, &[(Path::new("/r/50.toml"), text)]);
    let settings = load_texts(Some((Path::new("/r/upcalld.toml"), text)), &[]);
    for loaded in [rules, settings] {
        for diagnostic in &loaded.diagnostics {
            let shown = diagnostic.render(false);
            assert!(!shown.contains('\x1b'), "a terminal would act on it");
        }
        assert_eq!(loaded.policy.is_none(), loaded.errors() > 0);
    }
});
