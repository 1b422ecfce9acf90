use std::path::Path;

use serde_json::{Map, Value, json};

use super::*;

/// The schema of a record: what schemars makes of the types, and that every field is always there.
fn schema() -> Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12();
    let schema = settings.into_generator().into_root_schema_for::<Record>();
    let mut schema = schema.to_value();
    schema["title"] = json!("upcalld: a record");
    schema["description"] = json!(
        "One upcall: /var/lib/upcalld/records, upcallctl show --json, and each of \
         upcallctl list --json. Fields and words may be added within a version, and readers \
         ignore what they do not know. Text that a tenant chose is escaped."
    );
    schema["properties"]["schema"]["const"] = json!(SCHEMA);
    schema["properties"]["version"]["const"] = json!(VERSION);
    schema["properties"]["time"]["format"] = json!("date-time");
    complete(&mut schema);
    if let Some(definitions) = schema["$defs"].as_object_mut() {
        definitions.values_mut().for_each(complete);
    }
    schema
}

fn complete(object: &mut Value) {
    if let Some(properties) = object.get("properties").and_then(Value::as_object) {
        object["required"] = properties.keys().cloned().collect();
    }
}

#[test]
fn the_schema_in_docs_is_current() {
    let text = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/record.schema.json");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap_or_default() == text,
        "{} is not current; UPDATE_DOCS=1 cargo test -p upcalld writes it anew",
        path.display()
    );
}

#[test]
fn a_record_has_all_the_fields_of_the_schema_and_no_others() {
    let schema = schema();
    let record = json!({
        "schema": SCHEMA, "version": VERSION, "id": "k3m9q0tz", "kind": "core", "time": "",
        "node": "", "count": 1, "unknown": [], "process": Process::default(), "container": null,
        "evidence": Evidence::default(), "verdict": Verdict::default(), "outcome": "done",
        "reason": null, "message": null, "timings_us": Timings::default(),
        "actions": [Action::new("run")], "core": Core::default(),
        "key": Key::default(), "module": Module::default(),
    });
    let record: Record = serde_json::from_value(record).unwrap();
    let record = serde_json::to_value(record).unwrap();
    let names = |object: &Map<String, Value>| -> Vec<String> {
        let mut names: Vec<String> = object.keys().cloned().collect();
        names.sort_unstable();
        names
    };
    let properties = |schema: &Value| names(schema["properties"].as_object().unwrap());
    assert_eq!(names(record.as_object().unwrap()), properties(&schema));
    for (field, of) in [
        ("/process", "Process"),
        ("/evidence", "Evidence"),
        ("/verdict", "Verdict"),
        ("/timings_us", "Timings"),
        ("/actions/0", "Action"),
        ("/core", "Core"),
        ("/key", "Key"),
        ("/module", "Module"),
    ] {
        let found = record.pointer(field).unwrap().as_object().unwrap();
        assert_eq!(names(found), properties(&schema["$defs"][of]), "{of}");
    }
    let outcomes = serde_json::to_string(&schema["$defs"]["Outcome"]).unwrap();
    assert!(outcomes.contains("\"partial\""), "{outcomes}");
}
