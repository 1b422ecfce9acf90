//! docs/config.schema.json: made from the table of keys, and current.
//!
//! `UPDATE_DOCS=1 cargo test -p upcall-config` writes it anew.

use serde_json::{Map, Value as Json, json};
use upcall_config::keys::{
    CONTAINERS, Key, Keys, MAX_ARGV, MAX_CONTAINERS, MAX_LIST, MAX_RULES, MAX_TEXT, RULES,
    SETTINGS, Value,
};
use upcall_config::template::MAX_WORD;

use crate::docs::current;

fn one_or_list(value: &Json) -> Json {
    json!({ "anyOf": [value, { "type": "array", "items": value, "minItems": 1, "maxItems": MAX_LIST }] })
}

fn text() -> Json {
    json!({ "type": "string", "maxLength": MAX_TEXT })
}

fn path() -> Json {
    json!({ "type": "string", "pattern": "^/", "maxLength": MAX_TEXT })
}

/// What may be the value of a key that is no table of further keys.
fn value(value: Value) -> Json {
    match value {
        Value::Table => json!({ "type": "object" }),
        Value::Labels => json!({
            "type": "object",
            "minProperties": 1,
            "additionalProperties": one_or_list(&text()),
        }),
        Value::Text => text(),
        Value::Word(words) => json!({ "enum": words.list() }),
        Value::Words(words) => {
            // Real-time signals have numbers instead of names.
            let known = json!({ "enum": words.list() });
            let one = if words.list().contains(&"SEGV") {
                json!({ "anyOf": [known, { "type": "string", "pattern": "^RTMIN\\+[0-9]+$" }] })
            } else {
                known
            };
            one_or_list(&one)
        }
        Value::Globs => one_or_list(&text()),
        Value::Numbers(most) => one_or_list(&json!({ "anyOf": [
            { "type": "integer", "minimum": 0, "maximum": most },
            { "type": "string", "pattern": "^[0-9]+-[0-9]+$" },
        ] })),
        Value::Flag => json!({ "type": "boolean" }),
        Value::Flags => one_or_list(&json!({ "type": "boolean" })),
        Value::Count(least, most) => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        Value::Size(least) => json!({ "anyOf": [
            { "type": "integer", "minimum": least },
            { "type": "string", "pattern": "^[0-9]+(KiB|MiB|GiB|TiB)?$" },
        ] }),
        Value::Duration(_, _) => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" }),
        Value::Rate => json!({ "type": "string", "pattern": "^[0-9]+/(s|min|h|day)$" }),
        Value::Argv => json!({
            "type": "array",
            "prefixItems": [path()],
            "items": { "type": "string", "maxLength": MAX_WORD },
            "minItems": 1,
            "maxItems": MAX_ARGV,
        }),
        Value::Path => path(),
        Value::Paths => json!({ "type": "array", "items": path() }),
    }
}

/// The table with this path and everything below it.
fn table(keys: &Keys, path: &str) -> Json {
    let inside = |key: &&&Key| match key.path.rsplit_once('.') {
        Some((table, _)) => table == path,
        None => path.is_empty(),
    };
    let here: Vec<&Key> = keys.known.iter().filter(|key| inside(&key)).collect();
    let word = |key: &Key| key.path.rsplit('.').next().unwrap().to_owned();
    let properties: Map<String, Json> = here
        .iter()
        .map(|key| (word(key), property(keys, key)))
        .collect();
    let required: Vec<_> = here
        .iter()
        .filter(|key| key.required)
        .map(|key| word(key))
        .collect();
    let mut table = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    if !required.is_empty() {
        table["required"] = json!(required);
    }
    table
}

fn property(keys: &Keys, key: &Key) -> Json {
    let mut property = if key.value == Value::Table {
        table(keys, key.path)
    } else {
        value(key.value)
    };
    property["description"] = json!(key.meaning);
    // Defaults and examples that are words or tables of TOML are for people only.
    if let Ok(default) = serde_json::from_str::<Json>(key.default.trim_matches('`')) {
        property["default"] = default;
    }
    if let Ok(example) = serde_json::from_str::<Json>(key.example)
        && key.value != Value::Table
    {
        property["examples"] = json!([example]);
    }
    property
}

fn schema() -> Json {
    let mut rule = table(&RULES, "");
    let any_of = |words: &[&str]| -> Vec<Json> {
        words
            .iter()
            .map(|word| json!({ "required": [word] }))
            .collect()
    };
    rule["anyOf"] = json!(any_of(&[
        "run", "store", "deliver", "file", "pass", "answer", "deny",
    ]));
    rule["properties"]["run"]["oneOf"] = json!(any_of(&["command", "host_program"]));
    rule["properties"]["limit"]["anyOf"] = json!(any_of(&["rate", "concurrent"]));
    let mut container = table(&CONTAINERS, "");
    container["oneOf"] = json!(any_of(&["unit", "cgroup", "pid_file"]));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "upcalld: rules.d/*.toml and upcalld.toml",
        "$defs": {
            "rules": {
                "description": "a file in rules.d",
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "rule": { "type": "array", "maxItems": MAX_RULES, "items": rule },
                    "container": { "type": "array", "maxItems": MAX_CONTAINERS, "items": container },
                },
            },
            "settings": table(&SETTINGS, ""),
        },
        "anyOf": [{ "$ref": "#/$defs/rules" }, { "$ref": "#/$defs/settings" }],
    })
}

#[test]
fn the_schema_in_docs_is_current() {
    let text = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    current("config.schema.json", &text);
}

#[test]
fn the_schema_says_what_the_table_of_keys_says() {
    let schema = schema();
    let rule = &schema["$defs"]["rules"]["properties"]["rule"]["items"];
    assert_eq!(rule["required"], json!(["upcall"]));
    let signal = &rule["properties"]["match"]["properties"]["core"]["properties"]["signal"];
    assert!(signal.to_string().contains("\"SEGV\""));
    let keep = &schema["$defs"]["settings"]["properties"]["records"]["properties"]["keep"];
    assert_eq!(
        (&keep["default"], &keep["minimum"]),
        (&json!(100_000), &json!(1))
    );
    assert_eq!(
        rule["properties"]["run"]["properties"]["timeout"]["default"],
        json!("30s")
    );
    assert_eq!(
        rule["properties"]["match"]["additionalProperties"],
        json!(false)
    );
}
