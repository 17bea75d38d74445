//! Lists in pages, filtered.

use serde_json::{Value, json};

use super::Refusal;
use super::routes::field;

const PAGE: usize = 250;

/// One page of a list, with the token of the next.
pub fn page(name: &str, all: &[Value], filter: &str, query: &str) -> Result<Value, Refusal> {
    let matching = all
        .iter()
        .map(|item| Ok((item, passes(item, filter)?)))
        .collect::<Result<Vec<_>, Refusal>>()?;
    let items: Vec<&Value> = matching
        .into_iter()
        .filter_map(|(item, passes)| passes.then_some(item))
        .collect();
    let size = match field(query, "pageSize").parse() {
        Ok(0) | Err(_) => PAGE,
        Ok(size) => size,
    };
    let token = field(query, "pageToken");
    let from: usize = match token.as_str() {
        "" => 0,
        token => token
            .parse()
            .map_err(|_| Refusal::invalid("The page token is not valid."))?,
    };
    let shown: Vec<&Value> = items.iter().skip(from).take(size).copied().collect();
    let mut answer = json!({"totalSize": items.len()});
    if !shown.is_empty() {
        answer[name] = json!(shown);
    }
    if from + size < items.len() {
        answer["nextPageToken"] = json!((from + size).to_string());
    }
    Ok(answer)
}

/// `name:part`, `labels.KEY=VALUE`, `state:ENABLED`, joined by `AND`.
fn passes(item: &Value, filter: &str) -> Result<bool, Refusal> {
    for term in filter.split(" AND ").map(str::trim) {
        if term.is_empty() {
            continue;
        }
        let parts = term.split_once(['=', ':']);
        let (path, wanted) =
            parts.ok_or_else(|| Refusal::invalid("The filter is not understood."))?;
        let has = path.split('.').fold(item, |item, name| &item[name]);
        let has = has.as_str().unwrap_or_default();
        let wanted = wanted.trim_matches('"');
        let fits = if term.contains('=') {
            has == wanted
        } else {
            has.contains(wanted)
        };
        if !fits {
            return Ok(false);
        }
    }
    Ok(true)
}
