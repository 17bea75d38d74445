//! The usage table: rows in, sums out.

use std::collections::HashSet;
use std::path::Path;

use sqlx::Row;
use sqlx::sqlite::SqlitePool;

use super::session::Place;
use super::{Store, StoreError, sqlite};

/// Takes a JSON array of rows. One statement and one parameter for a whole batch: it is all or
/// nothing, and a row that is there already stays as it is. `jsonb_each` parses the batch once;
/// `json_each` would parse each row again and costs about four times as much. Timestamps are of
/// fixed width (see `usage::row`), and become microseconds.
const INSERT: &str = "\
INSERT INTO usage (request_id, client_request_id, started_at, finished_at, principal, key_name, \
key_id, username, model, served_model, upstream, endpoint, stream, status, outcome, error_code, \
prompt_tokens, cached_tokens, completion_tokens, total_tokens, counted_by, attempts, wait_ms, \
first_byte_ms, duration_ms, request_bytes, response_bytes, client, service, revision, instance_id, \
region, labels, woke) \
SELECT value->>'request_id', value->>'client_request_id', \
unixepoch(substr(value->>'started_at', 1, 19)) * 1000000 + CAST(substr(value->>'started_at', 21, 6) AS INTEGER), \
unixepoch(substr(value->>'finished_at', 1, 19)) * 1000000 + CAST(substr(value->>'finished_at', 21, 6) AS INTEGER), \
value->>'principal', value->>'key_name', value->>'key_id', value->>'username', value->>'model', \
value->>'served_model', value->>'upstream', value->>'endpoint', value->>'stream', value->>'status', \
value->>'outcome', value->>'error_code', value->>'prompt_tokens', value->>'cached_tokens', \
value->>'completion_tokens', value->>'total_tokens', value->>'counted_by', value->>'attempts', \
value->>'wait_ms', value->>'first_byte_ms', value->>'duration_ms', value->>'request_bytes', \
value->>'response_bytes', value->>'client', value->>'service', value->>'revision', \
value->>'instance_id', value->>'region', json(value->'labels'), value->>'woke' \
FROM jsonb_each($1) WHERE true \
ON CONFLICT (request_id) DO NOTHING";

/// Sums since `$1`, grouped by a constant expression. A call that its client left is no error. The
/// second text is for a file that a release before wrote, which lacks a column.
macro_rules! totals {
    ($group:literal, $order:literal) => {
        [
            totals!($group, $order, "COUNT(woke)"),
            totals!($group, $order, "0"),
        ]
    };
    ($group:literal, $order:literal, $wakes:literal) => {
        concat!(
            "SELECT ",
            $group,
            " AS name, COUNT(*) AS requests, SUM(prompt_tokens) AS prompt_tokens, \
             SUM(cached_tokens) AS cached_tokens, SUM(completion_tokens) AS completion_tokens, \
             SUM(total_tokens) AS total_tokens, \
             SUM(CASE WHEN outcome <> 'client_abort' \
             AND (outcome <> 'complete' OR status >= 400 OR error_code IS NOT NULL) \
             THEN 1 ELSE 0 END) AS errors, ",
            $wakes,
            " AS wakes \
             FROM usage WHERE started_at >= $1 GROUP BY 1 ORDER BY ",
            $order,
        )
    };
}

const BY_KEY: [&str; 2] = totals!("key_name", "total_tokens DESC, name");
const BY_USER: [&str; 2] = totals!("username", "total_tokens DESC, name");
const BY_MODEL: [&str; 2] = totals!(
    "COALESCE(NULLIF(model, ''), served_model)",
    "total_tokens DESC, name"
);
const BY_DAY: [&str; 2] = totals!(
    "strftime('%Y-%m-%d', started_at / 1000000, 'unixepoch')",
    "name"
);
const BY_LABEL: [&str; 2] = totals!(
    "(SELECT value->>'value' FROM json_each(labels) WHERE value->>'key' = $2 LIMIT 1)",
    "total_tokens DESC, name"
);

/// Those of `$1`, a JSON array, that are there.
const RECORDED: &str =
    "SELECT request_id FROM usage WHERE request_id IN (SELECT value FROM json_each($1))";

const HAS_WOKE: &str =
    "SELECT EXISTS (SELECT 1 FROM pragma_table_info('usage') WHERE name = 'woke')";

/// What calls are added up by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grouping {
    Key,
    User,
    /// The model that was asked for, else the one that served.
    Model,
    /// UTC days, in their order; all others come by tokens, the most first.
    Day,
    /// The value of the label of this name.
    Label(String),
}

/// Sums over one group of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// `None` for calls without such a thing.
    pub name: Option<String>,
    pub requests: i64,
    pub prompt_tokens: i64,
    pub cached_tokens: i64,
    pub completion_tokens: i64,
    pub total_tokens: i64,
    /// Calls that failed for another reason than that the client left.
    pub errors: i64,
    /// Calls that started a model server that was asleep.
    pub wakes: i64,
}

/// The embedded usage table, always in a file.
pub struct UsageTable {
    pub(super) pool: SqlitePool,
    /// The connection is the store's.
    is_shared: bool,
}

impl UsageTable {
    /// Opens the file for writing, makes it (and its directory) if missing, and brings its tables up
    /// to date. A new file is readable by its owner alone.
    ///
    /// # Errors
    /// When the directory or file cannot be made, or is no database.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            pool: sqlite::open(path).await?,
            is_shared: false,
        })
    }

    /// As [`UsageTable::open`]; if the store is in this file, its connection is used.
    ///
    /// # Errors
    /// As there.
    pub async fn open_beside(store: Option<&Store>, path: &Path) -> Result<Self, StoreError> {
        match store.map(|store| &store.place) {
            Some(Place::Sqlite(pool, file)) if file == path => Ok(Self {
                pool: pool.clone(),
                is_shared: true,
            }),
            _ => Self::open(path).await,
        }
    }

    /// Opens the file for reading, beside a gateway that may be writing it.
    ///
    /// # Errors
    /// [`StoreError::is_missing`] when there is no such file; else when it cannot be read.
    pub async fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            pool: sqlite::open_read_only(path).await?,
            is_shared: false,
        })
    }

    /// Closes the file; what was written is then in the one file, without a journal beside it. A
    /// connection that is the store's stays.
    pub async fn close(&self) {
        if !self.is_shared {
            self.pool.close().await;
        }
    }

    /// Writes rows, each a JSON object with the columns of `schema/usage.json`. Rows whose
    /// `request_id` is there already are left as they are, so a batch may be sent again.
    ///
    /// # Errors
    /// When the database refuses; then none of the rows was written.
    pub async fn insert_usage(&self, rows: &[String]) -> Result<(), StoreError> {
        let mut batch =
            String::with_capacity(rows.iter().map(|row| row.len() + 1).sum::<usize>() + 1);
        for row in rows {
            batch.push(if batch.is_empty() { '[' } else { ',' });
            batch.push_str(row);
        }
        if batch.is_empty() {
            return Ok(());
        }
        batch.push(']');
        sqlx::query(INSERT).bind(batch).execute(&self.pool).await?;
        Ok(())
    }

    /// Those of the request ids that have a row.
    ///
    /// # Errors
    /// When the database cannot be read, or has no usage table.
    pub async fn recorded(&self, request_ids: &[String]) -> Result<HashSet<String>, StoreError> {
        let ids = serde_json::Value::from(request_ids).to_string();
        let rows = sqlx::query(RECORDED)
            .bind(ids)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Sums of the calls that started at or after `since_us` (microseconds since 1970, UTC).
    ///
    /// # Errors
    /// When the database cannot be read, or has no usage table.
    pub async fn sum_usage(&self, by: &Grouping, since_us: i64) -> Result<Vec<Totals>, StoreError> {
        let has_woke: bool = sqlx::query_scalar(HAS_WOKE).fetch_one(&self.pool).await?;
        let [whole, older] = match by {
            Grouping::Key => BY_KEY,
            Grouping::User => BY_USER,
            Grouping::Model => BY_MODEL,
            Grouping::Day => BY_DAY,
            Grouping::Label(_) => BY_LABEL,
        };
        let mut query = sqlx::query(if has_woke { whole } else { older }).bind(since_us);
        if let Grouping::Label(name) = by {
            query = query.bind(name.clone());
        }
        let rows = query.fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                Ok(Totals {
                    name: row.try_get("name")?,
                    requests: row.try_get("requests")?,
                    prompt_tokens: row.try_get("prompt_tokens")?,
                    cached_tokens: row.try_get("cached_tokens")?,
                    completion_tokens: row.try_get("completion_tokens")?,
                    total_tokens: row.try_get("total_tokens")?,
                    errors: row.try_get("errors")?,
                    wakes: row.try_get("wakes")?,
                })
            })
            .collect()
    }
}
