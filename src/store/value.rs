//! Parameters and rows of either database. There are four types of columns, so that one text of
//! SQL and one code around it serve both.

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;

use super::StoreError;

/// A parameter.
#[derive(Clone, Copy)]
pub(super) enum Value<'v> {
    Int(i64),
    Text(&'v str),
    Bytes(&'v [u8]),
    Bool(bool),
}

/// A query of whichever database it is used with, with its parameters.
macro_rules! bind {
    ($sql:expr, $values:expr) => {{
        let mut query = sqlx::query($sql);
        for value in $values {
            query = match *value {
                Value::Int(value) => query.bind(value),
                Value::Text(value) => query.bind(value.to_owned()),
                Value::Bytes(value) => query.bind(value.to_vec()),
                Value::Bool(value) => query.bind(value),
            };
        }
        query
    }};
}
pub(super) use bind;

/// A row of an answer.
pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

macro_rules! get {
    ($row:expr, $column:expr) => {
        Ok(match $row {
            Row::Sqlite(row) => row.try_get($column)?,
            Row::Postgres(row) => row.try_get($column)?,
        })
    };
}

impl Row {
    pub(super) fn int(&self, column: &str) -> Result<i64, StoreError> {
        get!(self, column)
    }

    pub(super) fn int_or_null(&self, column: &str) -> Result<Option<i64>, StoreError> {
        get!(self, column)
    }

    /// A number of tokens or calls. There are no negative ones.
    pub(super) fn count(&self, column: &str) -> Result<u64, StoreError> {
        Ok(u64::try_from(self.int(column)?).unwrap_or(0))
    }

    pub(super) fn text(&self, column: &str) -> Result<String, StoreError> {
        get!(self, column)
    }

    pub(super) fn bytes(&self, column: &str) -> Result<Vec<u8>, StoreError> {
        get!(self, column)
    }

    pub(super) fn flag(&self, column: &str) -> Result<bool, StoreError> {
        get!(self, column)
    }
}

/// What a column of tokens can hold of a number.
pub(super) fn stored(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
