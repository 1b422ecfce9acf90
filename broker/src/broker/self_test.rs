//! The hooks' self-tests: a child of upcallctl that crashes, or asks for a key or a module; nothing is kept but the
//! record.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use upcall_config::facts::Facts;
use upcall_helpers::wire;

use super::Broker;
use super::draft::Draft;
use crate::intake::call::CoreCall;
use crate::intake::key::KeyCall;
use crate::linux::parse::number;

/// What a program goes by that a child of upcallctl has the kernel start, with the child's pid behind it.
pub const SELF_TEST: &str = "/upcalld-self-test-";

/// A child that is to crash or to ask for a self-test is expected for this long.
const EXPECTED: Duration = Duration::from_secs(10);

impl Broker {
    /// Expects this process to crash or to ask soon, for a self-test of the hook.
    pub fn expect_self_test(&self, pid: u32) {
        let mut expected = self
            .self_tests
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        expected.retain(|_, since| since.elapsed() < EXPECTED);
        expected.insert(pid, Instant::now());
    }

    pub(super) fn is_self_test(&self, facts: &Facts) -> bool {
        facts.process.pid.is_some_and(|pid| self.is_expected(pid))
    }

    /// Of a program that the kernel starts of its own accord the name has to say who caused it.
    pub(super) fn is_named_self_test(&self, name: &[u8]) -> bool {
        let pid = name.strip_prefix(SELF_TEST.as_bytes()).and_then(number);
        pid.is_some_and(|pid| self.is_expected(pid))
    }

    fn is_expected(&self, pid: u32) -> bool {
        let mut expected = self
            .self_tests
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let since = expected.remove(&pid);
        since.is_some_and(|since| since.elapsed() < EXPECTED)
    }

    pub(super) fn self_tested(&self, call: &CoreCall, draft: Draft) {
        call.caller.refuse(&call.kernel);
        self.self_tested_by("core", draft);
    }

    /// Gives the key a payload that says whose it is.
    pub(super) fn key_self_tested(&self, call: &KeyCall, draft: Draft) {
        let answer = wire::Verdict::Answer {
            payload: b"upcalld".to_vec(),
            ttl: 1000,
        };
        // A shim that has gone has refused it itself, and upcallctl sees that.
        let _ = call.shim.tell(&answer, &[]);
        self.self_tested_by("key", draft);
    }

    /// Records it: a child of upcallctl did what the hook is there for.
    pub(super) fn self_tested_by(&self, hook: &str, mut draft: Draft) {
        draft.self_tested(hook);
        let (record, micros) = draft.finish();
        let result = self.records.write(&record, micros);
        self.told(record, result);
    }
}
