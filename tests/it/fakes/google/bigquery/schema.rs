//! Columns: read from a resource, and changed only as BigQuery lets them be changed.

use serde_json::{Value, json};

use super::refusal::Refusal;

/// A column, or a field of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub name: String,
    /// In the spelling of answers: `INTEGER`, not `INT64`.
    pub kind: String,
    pub mode: Mode,
    /// Of a record.
    pub fields: Vec<Field>,
    description: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Nullable,
    Required,
    Repeated,
}

impl Mode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Nullable => "NULLABLE",
            Self::Required => "REQUIRED",
            Self::Repeated => "REPEATED",
        }
    }
}

impl Field {
    /// As the resource has it.
    pub fn to_json(&self) -> Value {
        let mut json = json!({"name": self.name, "type": self.kind, "mode": self.mode.as_str()});
        if let Some(description) = &self.description {
            json["description"] = json!(description);
        }
        if !self.fields.is_empty() {
            json["fields"] = Value::Array(self.fields.iter().map(Self::to_json).collect());
        }
        json
    }
}

/// The columns of a resource's `schema`; none if it has no schema.
pub fn fields(schema: &Value) -> Result<Vec<Field>, Refusal> {
    let Some(list) = schema["fields"].as_array() else {
        return Ok(Vec::new());
    };
    let fields: Vec<Field> = list.iter().map(field).collect::<Result<_, _>>()?;
    for (at, field) in fields.iter().enumerate() {
        let same = |other: &Field| other.name.eq_ignore_ascii_case(&field.name);
        if fields[..at].iter().any(same) {
            let message = format!("Field {} already exists in schema", field.name);
            return Err(Refusal::invalid(message));
        }
    }
    Ok(fields)
}

fn field(json: &Value) -> Result<Field, Refusal> {
    let name = json["name"].as_str().unwrap_or_default().to_owned();
    let fits = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.len() <= 300
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !fits {
        let message = format!(
            "Invalid field name \"{name}\". Fields must contain only letters, numbers, and \
             underscores, start with a letter or underscore, and be at most 300 characters long."
        );
        return Err(Refusal::invalid(message));
    }
    let wanted = json["type"]
        .as_str()
        .unwrap_or_default()
        .to_ascii_uppercase();
    let kind = match wanted.as_str() {
        "INT64" => "INTEGER",
        "BOOL" => "BOOLEAN",
        "FLOAT64" => "FLOAT",
        "STRUCT" => "RECORD",
        "STRING" | "BYTES" | "INTEGER" | "FLOAT" | "NUMERIC" | "BIGNUMERIC" | "BOOLEAN"
        | "TIMESTAMP" | "DATE" | "TIME" | "DATETIME" | "RECORD" | "GEOGRAPHY" | "JSON" => &wanted,
        _ => {
            let message = format!("Invalid value for type: {wanted} is not a valid value");
            return Err(Refusal::invalid(message));
        }
    };
    let mode = match json["mode"]
        .as_str()
        .unwrap_or("NULLABLE")
        .to_ascii_uppercase()
        .as_str()
    {
        "NULLABLE" => Mode::Nullable,
        "REQUIRED" => Mode::Required,
        "REPEATED" => Mode::Repeated,
        other => {
            let message = format!("Invalid value for mode: {other} is not a valid value");
            return Err(Refusal::invalid(message));
        }
    };
    let inner = fields(json)?;
    if (kind == "RECORD") == inner.is_empty() {
        let message = match kind {
            "RECORD" => format!("Field {name} is type RECORD but has no schema"),
            _ => format!("Field {name} is of type {kind} but has a nested schema"),
        };
        return Err(Refusal::invalid(message));
    }
    Ok(Field {
        kind: kind.to_owned(),
        mode,
        fields: inner,
        description: json["description"].as_str().map(str::to_owned),
        name,
    })
}

/// The columns of a table after a change: those that it has in their order, then new ones. None may
/// go, be of another type, or be newly required.
pub fn changed(
    old: &[Field],
    new: &[Field],
    table: &str,
    path: &str,
) -> Result<Vec<Field>, Refusal> {
    let refuse = |what: String| {
        Err(Refusal::invalid(format!(
            "Provided Schema does not match Table {table}. {what}"
        )))
    };
    let mut fields = Vec::new();
    for field in old {
        let path = format!("{path}{}", field.name);
        let same = |other: &&Field| other.name.eq_ignore_ascii_case(&field.name);
        let Some(other) = new.iter().find(same) else {
            return refuse(format!("Field {path} is missing in new schema"));
        };
        if other.kind != field.kind {
            let kinds = format!("from {} to {}", field.kind, other.kind);
            return refuse(format!("Field {path} has changed type {kinds}"));
        }
        let relaxed = field.mode == Mode::Required && other.mode == Mode::Nullable;
        if other.mode != field.mode && !relaxed {
            let modes = format!("from {} to {}", field.mode.as_str(), other.mode.as_str());
            return refuse(format!("Field {path} has changed mode {modes}"));
        }
        fields.push(Field {
            fields: changed(&field.fields, &other.fields, table, &format!("{path}."))?,
            mode: other.mode,
            description: other
                .description
                .clone()
                .or_else(|| field.description.clone()),
            ..field.clone()
        });
    }
    for field in new {
        if fields
            .iter()
            .any(|known| known.name.eq_ignore_ascii_case(&field.name))
        {
            continue;
        }
        if field.mode == Mode::Required {
            let what = format!(
                "Cannot add required fields to an existing schema. (field: {path}{})",
                field.name
            );
            return refuse(what);
        }
        fields.push(field.clone());
    }
    Ok(fields)
}
