//! Sums from BigQuery's table. A row may stand there more than once and is counted once; older
//! tables lack columns, and what they lack counts as nothing.

use time::OffsetDateTime;

use crate::google::{Cells, Fault, Parameter, TABLE, Table};
use crate::store::{Grouping, Totals};

/// Columns that are added up or grouped by, with their types.
const COLUMNS: [(&str, &str); 12] = [
    ("key_name", "STRING"),
    ("username", "STRING"),
    ("model", "STRING"),
    ("served_model", "STRING"),
    ("outcome", "STRING"),
    ("status", "INT64"),
    ("error_code", "STRING"),
    ("prompt_tokens", "INT64"),
    ("cached_tokens", "INT64"),
    ("completion_tokens", "INT64"),
    ("total_tokens", "INT64"),
    ("woke", "BOOL"),
];

const LABEL: &str = "(SELECT l.value FROM UNNEST(labels) AS l WHERE l.key = @label LIMIT 1)";

/// Sums of the calls that started at `since` or later; `None` if there is no table yet.
///
/// # Errors
/// When the table cannot be read, in words.
pub(super) async fn sum(
    table: &Table,
    by: &Grouping,
    since: OffsetDateTime,
) -> Result<Option<Vec<Totals>>, Fault> {
    let Some(columns) = table.column_names().await? else {
        return Ok(None);
    };
    let mut parameters = vec![("since", Parameter::Timestamp(since))];
    if let Grouping::Label(name) = by {
        parameters.push(("label", Parameter::Text(name.clone())));
    }
    let rows = table.query(&sql(by, &columns), &parameters).await?;
    rows.iter()
        .map(totals)
        .collect::<Option<_>>()
        .map(Some)
        .ok_or_else(|| {
            let text = "BigQuery's answer is not what was asked for".to_owned();
            Fault {
                permanent: true,
                text,
            }
        })
}

/// The question. All of its text is from here; a re-sent row has the same `started_at`, so that the
/// filter on it reads only the days it names and loses no copy.
fn sql(by: &Grouping, columns: &[String]) -> String {
    let has = |name: &str| {
        columns
            .iter()
            .any(|column| column.eq_ignore_ascii_case(name))
    };
    let mut read: Vec<String> = COLUMNS
        .iter()
        .map(|(name, kind)| {
            if has(name) {
                (*name).to_owned()
            } else {
                format!("CAST(NULL AS {kind}) AS {name}")
            }
        })
        .collect();
    let group = match by {
        Grouping::Key => "key_name",
        Grouping::User => "username",
        Grouping::Model => "COALESCE(NULLIF(model, ''), served_model)",
        Grouping::Day => "FORMAT_TIMESTAMP('%Y-%m-%d', started_at)",
        Grouping::Label(_) => "label",
    };
    if let Grouping::Label(_) = by {
        let value = if has("labels") {
            LABEL
        } else {
            "CAST(NULL AS STRING)"
        };
        read.push(format!("{value} AS label"));
    }
    let order = match by {
        Grouping::Day => "name",
        _ => "total_tokens DESC, name",
    };
    format!(
        "SELECT {group} AS name, COUNT(*) AS requests, \
         IFNULL(SUM(prompt_tokens), 0) AS prompt_tokens, \
         IFNULL(SUM(cached_tokens), 0) AS cached_tokens, \
         IFNULL(SUM(completion_tokens), 0) AS completion_tokens, \
         IFNULL(SUM(total_tokens), 0) AS total_tokens, \
         COUNTIF(outcome != 'client_abort' \
         AND (outcome != 'complete' OR status >= 400 OR error_code IS NOT NULL)) AS errors, \
         SUM(IF(woke, 1, 0)) AS wakes \
         FROM (SELECT started_at, {read} FROM {TABLE} WHERE started_at >= @since \
         QUALIFY ROW_NUMBER() OVER (PARTITION BY request_id ORDER BY finished_at) = 1) \
         GROUP BY name ORDER BY {order}",
        read = read.join(", "),
    )
}

fn totals(cells: &Cells) -> Option<Totals> {
    let [name, figures @ ..] = cells.as_slice() else {
        return None;
    };
    let figure = |at: usize| figures.get(at)?.as_deref()?.parse().ok();
    Some(Totals {
        name: name.clone(),
        requests: figure(0)?,
        prompt_tokens: figure(1)?,
        cached_tokens: figure(2)?,
        completion_tokens: figure(3)?,
        total_tokens: figure(4)?,
        errors: figure(5)?,
        wakes: figure(6)?,
    })
}
