//! `PATCH`: a merge patch (RFC 7396) of what something was made with. Its schema is that of the whole with every field left to
//! the caller, and so can't fall behind it.

use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

/// A change: only what is sent changes, at any depth; `null` takes a field back to what it is by default. Lists are replaced
/// as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct MergePatch<T> {
    fields: Map<String, Value>,
    of: PhantomData<fn() -> T>,
}

/// What a patch can be made of.
pub trait Patched: ToSchema {
    /// What its patch is called in the API's document.
    const PATCH: &'static str;
}

/// What of a patch can't be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadPatch {
    /// Path of the field.
    pub field: String,
    pub message: String,
}

impl<T: Patched> MergePatch<T> {
    /// Refuses what is no object, fields there are none of, and `null` where something has to stand.
    pub fn parse(value: Value) -> Result<Self, BadPatch> {
        let Value::Object(patch) = value else {
            return Err(BadPatch {
                field: String::new(),
                message: "a change is an object with the fields that change".into(),
            });
        };
        judge(&patch, &patch_schema::<T>(), "")?;
        Ok(Self {
            fields: patch,
            of: PhantomData,
        })
    }

    /// What `whole` is with this change.
    pub fn applied_to(&self, whole: Value) -> Value {
        merge(whole, &Value::Object(self.fields.clone()))
    }

    /// Whether it says anything of this field.
    pub fn touches(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// The fields it changes, for the log of who did what: never their values, which may hold secrets.
    pub fn fields(&self) -> Vec<String> {
        self.fields.keys().cloned().collect()
    }
}

fn merge(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut whole = match target {
        Value::Object(whole) => whole,
        _ => Map::new(),
    };
    for (key, change) in patch {
        if change.is_null() {
            whole.remove(key);
        } else {
            let old = whole.remove(key).unwrap_or(Value::Null);
            whole.insert(key.clone(), merge(old, change));
        }
    }
    Value::Object(whole)
}

fn judge(patch: &Map<String, Value>, schema: &Value, at: &str) -> Result<(), BadPatch> {
    let Some(properties) = properties(schema) else { return Ok(()) };
    for (key, value) in patch {
        let field = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        let Some(inner) = properties.get(key) else {
            return Err(BadPatch {
                message: format!("unknown field `{key}`"),
                field,
            });
        };
        match value {
            Value::Null if !takes_null(inner) => {
                return Err(BadPatch {
                    field,
                    message: "it has to be there: send what it is to be".into(),
                });
            }
            Value::Object(patch) => judge(patch, inner, &field)?,
            _ => {}
        }
    }
    Ok(())
}

/// The fields of an object, also where it may be `null` instead.
fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    if let Some(properties) = schema.get("properties") {
        return properties.as_object();
    }
    let choices = schema.get("anyOf").or_else(|| schema.get("oneOf"))?.as_array()?;
    choices.iter().find_map(properties)
}

fn takes_null(schema: &Value) -> bool {
    let is_null = |kind: &Value| kind == "null";
    match schema.get("type") {
        Some(Value::Array(kinds)) if kinds.iter().any(is_null) => return true,
        Some(kind) if is_null(kind) => return true,
        _ => {}
    }
    let choices = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array);
    choices.is_some_and(|choices| choices.iter().any(takes_null))
}

/// The schema of patches, with everything it refers to inside.
fn patch_schema<T: Patched>() -> Value {
    let mut list = Vec::new();
    T::schemas(&mut list);
    let known: BTreeMap<String, Value> = list
        .into_iter()
        .map(|(name, schema)| (name, serde_json::to_value(schema).unwrap_or_default()))
        .collect();
    let whole = serde_json::to_value(T::schema()).unwrap_or_default();
    loosen(&whole, &known)
}

fn loosen(schema: &Value, known: &BTreeMap<String, Value>) -> Value {
    let Value::Object(schema) = schema else { return schema.clone() };
    if let Some(Value::String(reference)) = schema.get("$ref") {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return known.get(name).map_or(Value::Bool(true), |inner| loosen(inner, known));
    }
    let mut out = schema.clone();
    let required: Vec<String> = match out.remove("required") {
        Some(Value::Array(names)) => names.iter().filter_map(|n| n.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    };
    if let Some(Value::Object(properties)) = out.get_mut("properties") {
        for (name, property) in properties.iter_mut() {
            let inner = loosen(property, known);
            *property = if required.contains(name) { inner } else { or_null(inner) };
        }
    }
    if let Some(entries) = out.get_mut("additionalProperties").filter(|entries| entries.is_object()) {
        *entries = or_null(loosen(entries, known));
    }
    for choice in ["anyOf", "oneOf"] {
        if let Some(Value::Array(choices)) = out.get_mut(choice) {
            for inner in choices.iter_mut() {
                *inner = loosen(inner, known);
            }
        }
    }
    // A list is replaced as a whole: its entries are as they were.
    if let Some(items) = out.get_mut("items") {
        *items = inlined(items, known);
    }
    Value::Object(out)
}

fn or_null(schema: Value) -> Value {
    if takes_null(&schema) {
        return schema;
    }
    json!({ "anyOf": [schema, { "type": "null" }] })
}

/// With everything it refers to in its place.
fn inlined(schema: &Value, known: &BTreeMap<String, Value>) -> Value {
    match schema {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get("$ref") {
                let name = reference.rsplit('/').next().unwrap_or_default();
                return known.get(name).map_or(Value::Bool(true), |inner| inlined(inner, known));
            }
            Value::Object(object.iter().map(|(k, v)| (k.clone(), inlined(v, known))).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(|v| inlined(v, known)).collect()),
        other => other.clone(),
    }
}

impl<T: Patched> PartialSchema for MergePatch<T> {
    fn schema() -> RefOr<Schema> {
        let mut schema = patch_schema::<T>();
        schema["description"] = "A merge patch (RFC 7396): only what is sent changes, at any depth, and `null` takes a field back to its \
                                 default. Lists are replaced as a whole."
            .into();
        serde_json::from_value(schema).unwrap_or_default()
    }
}
impl<T: Patched> ToSchema for MergePatch<T> {
    fn name() -> Cow<'static, str> {
        T::PATCH.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ClusterUpdate;

    fn patch(value: Value) -> Result<ClusterUpdate, String> {
        ClusterUpdate::parse(value).map_err(|bad| bad.field)
    }

    #[test]
    fn only_what_is_sent_changes() {
        let whole = json!({"name": "web", "autoScaling": {"minServers": 2, "maxServers": 10}, "retries": 3, "servers": ["a", "b"]});
        let change = patch(json!({"autoScaling": {"maxServers": 15}, "retries": null, "servers": ["c"]})).unwrap();
        assert_eq!(
            change.applied_to(whole),
            json!({"name": "web", "autoScaling": {"minServers": 2, "maxServers": 15}, "servers": ["c"]})
        );
    }

    #[test]
    fn what_there_is_none_of_is_refused_also_as_null() {
        for (bad, field) in [
            (json!({"nope": 1}), "nope"),
            (json!({"nope": null}), "nope"),
            (json!({"autoScaling": {"nope": null}}), "autoScaling.nope"),
            (json!({"tls": {"nope": 1}}), "tls.nope"),
            (json!({"name": null}), "name"),
            (json!({"servers": null}), "servers"),
            (json!({"virtualAddress": {"address": null}}), "virtualAddress.address"),
            (
                json!({"serverTemplate": {"container": {"nope": null}}}),
                "serverTemplate.container.nope",
            ),
            (json!([1]), ""),
        ] {
            assert_eq!(patch(bad.clone()), Err(field.to_owned()), "{bad}");
        }
        for good in [
            json!({}),
            json!({"autoScaling": null, "loadBalancer": null, "tls": {"certificate": null}}),
            json!({"serverTemplate": {"container": {"environment": {"A": null, "B": "1"}}}}),
        ] {
            assert!(patch(good.clone()).is_ok(), "{good}");
        }
    }

    #[test]
    fn its_schema_is_one() {
        let schema = serde_json::to_value(ClusterUpdate::schema()).unwrap();
        assert_eq!(schema["type"], "object");
        assert!(schema.get("required").is_none());
        assert_eq!(schema["additionalProperties"], false);
        assert!(!schema.to_string().contains("$ref"), "everything is in its place");
        let interval = &schema["properties"]["loadBalancer"]["anyOf"][0]["properties"]["healthCheckInterval"]["anyOf"][0];
        assert_eq!(
            (&interval["minimum"], &interval["maximum"]),
            (&json!(10), &json!(300)),
            "{schema:#}"
        );
    }
}
