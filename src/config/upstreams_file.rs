//! `UPSTREAMS_FILE`: model servers described one by one, in TOML. Finds every fault of the file at
//! once, each with its line; repeats no value that could be a secret set in the wrong place.

mod entry;
mod fields;
mod sheet;
#[cfg(test)]
mod tests;
mod whole;

use std::io::Read as _;

use toml::de::{DeTable, DeValue};

use self::entry::Entry;
use self::fields::Fields;
use self::sheet::Sheet;
use super::reader::{Reader, echo};
use super::{UpstreamAuth, UpstreamConfig};
use crate::secret::Secret;

const FILE_BYTES: u64 = 1 << 20;

/// What holds for an upstream that does not say otherwise.
pub(super) struct Defaults {
    /// `UPSTREAM_AUTH`.
    pub auth: UpstreamAuth,
    /// `VLLM_API_KEY`.
    pub api_key: Option<Secret<String>>,
}

/// Reads the file; its faults and warnings go to the reader. Without faults there is at least one
/// upstream.
pub(super) fn read(
    reader: &mut Reader<'_>,
    path: &str,
    defaults: &Defaults,
) -> Vec<UpstreamConfig> {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(wrong) => {
            reader.fault("UPSTREAMS_FILE", format_args!("`{path}` {wrong}"));
            return Vec::new();
        }
    };
    let mut sheet = Sheet::new(&text);
    let entries = read_entries(&mut sheet, reader, defaults);
    let upstreams = whole::put_together(&mut sheet, entries);
    sheet.tell(reader, path);
    upstreams
}

fn read_text(path: &str) -> Result<String, String> {
    let unreadable = |e: std::io::Error| format!("cannot be read: {e}");
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    let read = file
        .take(FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if u64::try_from(read).is_ok_and(|read| read > FILE_BYTES) {
        return Err(format!("is longer than {FILE_BYTES} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())
}

/// All upstreams in their order, those with faults too.
fn read_entries(sheet: &mut Sheet<'_>, reader: &Reader<'_>, defaults: &Defaults) -> Vec<Entry> {
    const RIGHT: &str =
        "describes no model server; each begins with the line [[upstream]], in two brackets";
    let (root, wrong) = DeTable::parse_recoverable(sheet.text);
    if !wrong.is_empty() {
        sheet.syntax(&wrong);
        return Vec::new();
    }
    for key in root.get_ref().keys() {
        if key.get_ref() != "upstream" {
            let name = echo(key.get_ref());
            sheet.fault(
                key.span().start,
                format_args!(
                    "`{name}` is nothing that this file holds; it holds [[upstream]] alone"
                ),
            );
        }
    }
    let Some(list) = root.get_ref().get("upstream") else {
        sheet.fault(0, RIGHT);
        return Vec::new();
    };
    let tables = list.get_ref().as_array();
    let tables: Option<Vec<_>> = tables.and_then(|list| {
        let tables = list.iter().map(|item| match item.get_ref() {
            DeValue::Table(table) => Some((item.span().start, table)),
            _ => None,
        });
        tables.collect()
    });
    let Some(tables) = tables.filter(|tables| !tables.is_empty()) else {
        sheet.fault(list.span().start, RIGHT);
        return Vec::new();
    };
    let numbered = tables.into_iter().zip(1..);
    let entries = numbered.map(|((at, table), number)| {
        let owner = format!("upstream number {number}");
        let mut fields = Fields::new(sheet, table, owner, at);
        entry::read(&mut fields, reader, defaults)
    });
    entries.collect()
}
