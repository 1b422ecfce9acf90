//! `upcallctl metrics`: what the daemon counts.

use serde_json::json;
use upcalld::control::Metrics;
use upcalld::metrics;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{print, print_json};

/// Runs the command.
pub(crate) fn run(context: &Context) -> Result<(), Failure> {
    let answer = context.connect()?.call("GetMetrics", json!({}));
    let answer: Metrics = answer.map_err(|error| Failure::call(context, error))?;
    if context.json.is_some() {
        return print_json(&json!({
            "schema": "upcalld.metrics", "version": 1, "families": answer.families,
        }));
    }
    print(&metrics::text(&answer.families))
}
