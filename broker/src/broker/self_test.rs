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

/// A child that is to crash or to ask for a self-test is expected for this long.
const SELF_TEST: Duration = Duration::from_secs(10);

impl Broker {
    /// Expects this process to crash or to ask soon, for a self-test of the hook.
    pub fn expect_self_test(&self, pid: u32) {
        let mut expected = self
            .self_tests
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        expected.retain(|_, since| since.elapsed() < SELF_TEST);
        expected.insert(pid, Instant::now());
    }

    pub(super) fn is_self_test(&self, facts: &Facts) -> bool {
        let mut expected = self
            .self_tests
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let since = facts.process.pid.and_then(|pid| expected.remove(&pid));
        since.is_some_and(|since| since.elapsed() < SELF_TEST)
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
