//! What tests order: faults, lags, refusals of rows.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::refusal::Refusal;

/// Insert ids are remembered "at least a minute", on a best-effort basis.
const INSERT_ID_WINDOW: Duration = Duration::from_mins(1);

/// What a call wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// As an order: every operation.
    Any,
    Discovery,
    Datasets,
    /// `tables.get` and `tables.list`.
    TablesGet,
    /// `tables.insert`.
    TablesInsert,
    /// `tables.patch`, `tables.update` and `tables.delete`.
    TablesChange,
    InsertAll,
    /// `tabledata.list`.
    DataList,
    /// `jobs.query`, `jobs.insert`, `jobs.get` and `jobs.getQueryResults`.
    Query,
    /// Nothing that is served here.
    Unknown,
}

/// What happens to a call instead of what it wants.
#[derive(Clone, Debug)]
pub enum Fault {
    /// An error in Google's JSON; nothing was done.
    Refuse(Refusal),
    /// A 502 with a page of HTML; nothing was done.
    Html,
    /// Nothing is done and nothing is answered.
    Never,
    /// Done at once, answered later.
    Late(Duration),
    /// Nothing is done, and rows are acknowledged as if they were stored.
    Swallow,
    /// Done, and the connection breaks before the answer.
    Lost,
    /// Done, and answered with a page of HTML and status 200.
    Unreadable,
}

/// What is said of a row that is refused.
#[derive(Clone, Debug)]
pub struct RowRefusal {
    /// `invalid`, `backendError`, `timeout`, `stopped`
    pub reason: String,
    pub message: String,
}

/// How long things take until inserts know them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lags {
    /// Inserts answer 404 for so long after a table was made.
    pub table_missing: Duration,
    /// Inserts are acknowledged and nothing is stored, for so long after a table was made.
    pub table_swallows: Duration,
    /// `no such field` for so long after a column was added.
    pub column_missing: Duration,
}

pub type RefusesRow = Arc<dyn Fn(&Value) -> Option<RowRefusal> + Send + Sync>;

/// All that was ordered.
pub struct Orders {
    pub always: Vec<(Operation, Fault)>,
    pub next: Vec<(Operation, Fault)>,
    pub refuses_row: Option<RefusesRow>,
    pub lags: Lags,
    pub insert_id_window: Duration,
    pub query_runs: Duration,
    pub page_rows: usize,
    pub bearer: Option<String>,
    /// Rights that the caller lacks when it asks for its rights.
    pub withheld: Vec<String>,
    pub discovery: Option<String>,
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            always: Vec::new(),
            next: Vec::new(),
            refuses_row: None,
            lags: Lags::default(),
            insert_id_window: INSERT_ID_WINDOW,
            query_runs: Duration::ZERO,
            page_rows: 100_000,
            bearer: None,
            withheld: Vec::new(),
            discovery: None,
        }
    }
}

impl Orders {
    /// What happens to this call; an order for the next one is used up.
    pub fn fault(&mut self, operation: Operation) -> Option<Fault> {
        let fits =
            |(ordered, _): &(Operation, Fault)| *ordered == operation || *ordered == Operation::Any;
        if let Some(at) = self.next.iter().position(fits) {
            return Some(self.next.remove(at).1);
        }
        let last = self.always.iter().rev().find(|order| fits(order));
        last.map(|(_, fault)| fault.clone())
    }
}
