//! BigQuery for tests: a server on a real socket that keeps datasets and tables, takes streaming
//! inserts and runs queries, as the REST API v2 documents them. The gateway's client and Google's
//! `bq` talk to the same one.
//!
//! It knows nothing of the gateway. Queries are really run, by `tests/sql/engine.py`.

mod cell;
mod change;
mod engine;
mod faults;
mod insert;
mod query;
mod refusal;
mod routes;
mod schema;
mod serve;
mod tables;
mod tests;

pub use faults::{Fault, Lags, Operation, RowRefusal};
pub use refusal::Refusal;
pub use serve::Call;

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::time::Instant;

use engine::Engine;
use faults::Orders;
use query::Job;
use serve::Running;
use tables::Table;

/// How long `wait_for` waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the service holds.
struct State {
    /// By `project` and `dataset`.
    datasets: BTreeMap<(String, String), Value>,
    /// By `project`, `dataset` and `table`; views too.
    tables: BTreeMap<(String, String, String), Table>,
    jobs: BTreeMap<String, Job>,
    /// For etags, job ids and table ids.
    number: u64,
    orders: Orders,
}

impl State {
    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }
}

/// What the connections share.
struct Shared {
    state: Mutex<State>,
    calls: watch::Sender<Vec<Call>>,
    engine: Mutex<Engine>,
    addr: SocketAddr,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running service; dropping it stops it and breaks off what is under way.
pub struct BigQuery {
    shared: Arc<Shared>,
    running: Option<Running>,
    /// Keeps the port while it is closed, so that it refuses whatever else runs on this machine.
    reserved: Option<TcpSocket>,
}

impl BigQuery {
    /// Serves an empty project of any name.
    pub async fn start() -> Self {
        let socket = serve::reserve(([127, 0, 0, 1], 0).into());
        let addr = socket.local_addr().expect("a bound socket has an address");
        let state = State {
            datasets: BTreeMap::new(),
            tables: BTreeMap::new(),
            jobs: BTreeMap::new(),
            number: 0,
            orders: Orders::default(),
        };
        let mut server = Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                calls: watch::Sender::new(Vec::new()),
                engine: Mutex::new(Engine::default()),
                addr,
            }),
            running: None,
            reserved: Some(socket),
        };
        server.resume().await;
        server
    }

    /// With one dataset.
    pub async fn with_dataset(project: &str, dataset: &str) -> Self {
        let server = Self::start().await;
        server.make_dataset(project, dataset);
        server
    }

    /// Serves (again) on the same port.
    pub async fn resume(&mut self) {
        self.stop().await;
        if let Some(socket) = self.reserved.take() {
            self.running = Some(serve::run(socket, Arc::clone(&self.shared)));
        }
    }

    /// Refuses connections and breaks those that there are; what is stored stays.
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
            let addr = self.shared.addr;
            self.reserved.get_or_insert_with(|| serve::reserve(addr));
        }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.addr)
    }

    /// Whether queries can be run: Python with the translator and the database is installed.
    pub fn can_query() -> bool {
        engine::python().is_file()
    }

    /// As [`BigQuery::can_query`], and says on standard error what is skipped if not.
    pub fn can_query_or_says_so(skipped: &str) -> bool {
        let can = Self::can_query();
        if !can {
            eprintln!("skipped: {skipped}: run scripts/test-sql.sh --install first");
        }
        can
    }

    /// Makes a dataset, as its owner did long ago.
    pub fn make_dataset(&self, project: &str, dataset: &str) {
        let body = json!({"datasetReference": {"projectId": project, "datasetId": dataset}});
        tables::insert_dataset(&mut self.shared.state(), project, &body).expect("a new dataset");
    }

    /// Makes a table from what `tables.insert` takes, as its owner did long ago: no lag holds for it.
    pub fn make_table(&self, project: &str, dataset: &str, resource: &Value) {
        let mut state = self.shared.state();
        let made = tables::insert_table(&mut state, (project, dataset), resource);
        let name = made.expect("a new table")["tableReference"]["tableId"].clone();
        let name = name.as_str().expect("its name").to_owned();
        let key = (project.to_owned(), dataset.to_owned(), name);
        if let Some(table) = state.tables.get_mut(&key) {
            table.settle();
        }
    }

    /// A fault for all calls of an operation, until [`BigQuery::recover`]; the last one wins.
    pub fn always(&self, operation: Operation, fault: Fault) {
        self.shared.state().orders.always.push((operation, fault));
    }

    /// A fault for the next call of an operation; several wait in line.
    pub fn next(&self, operation: Operation, fault: Fault) {
        self.shared.state().orders.next.push((operation, fault));
    }

    /// Takes back every fault and every refusal of rows.
    pub fn recover(&self) {
        let orders = &mut self.shared.state().orders;
        orders.always.clear();
        orders.next.clear();
        orders.refuses_row = None;
    }

    /// Rows that are refused although they fit the table.
    pub fn refuse_rows(
        &self,
        refuses: impl Fn(&Value) -> Option<RowRefusal> + Send + Sync + 'static,
    ) {
        self.shared.state().orders.refuses_row = Some(Arc::new(refuses));
    }

    /// How long new tables and columns take until they are there for inserts. Holds from now on for
    /// all tables that were made by a call, also earlier.
    pub fn lag(&self, lags: Lags) {
        self.shared.state().orders.lags = lags;
    }

    /// A table looks as if it had been made so long ago; lags hold for it as before.
    pub fn age_table(&self, project: &str, dataset: &str, table: &str, age: Duration) {
        let key = (project.to_owned(), dataset.to_owned(), table.to_owned());
        let mut state = self.shared.state();
        let table = state.tables.get_mut(&key).expect("a table");
        table.age(age);
    }

    /// How long insert ids are remembered; zero stores every row again that is sent again.
    pub fn remember_insert_ids(&self, window: Duration) {
        self.shared.state().orders.insert_id_window = window;
    }

    /// How long a query runs, of which a call waits for half at most, and how many rows a page of its
    /// answer has at most.
    pub fn slow_queries(&self, run: Duration, page_rows: usize) {
        let orders = &mut self.shared.state().orders;
        orders.query_runs = run;
        orders.page_rows = page_rows;
    }

    /// A right that the caller lacks, when it asks.
    pub fn withhold(&self, right: &str) {
        self.shared.state().orders.withheld.push(right.to_owned());
    }

    /// From now on every call needs this bearer token.
    pub fn require_bearer(&self, token: &str) {
        self.shared.state().orders.bearer = Some(token.to_owned());
    }

    /// The description of the API that `bq` asks for, with the addresses in it turned to this server.
    pub fn serve_discovery(&self, document: &Path) {
        let text = std::fs::read_to_string(document).expect("a discovery document");
        let text = text.replace("https://bigquery.googleapis.com", &self.url());
        self.shared.state().orders.discovery = Some(text);
    }

    /// Every call so far, in the order in which they came.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.borrow().clone()
    }

    /// The calls of one operation.
    pub fn calls_of(&self, operation: Operation) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(|call| call.operation == operation);
        calls
    }

    /// Waits until the calls are as wished, and returns them.
    ///
    /// # Panics
    /// When they are not within 20 seconds.
    pub async fn wait_for(&self, wished: impl Fn(&[Call]) -> bool) -> Vec<Call> {
        let mut calls = self.shared.calls.subscribe();
        let waited = tokio::time::timeout(PATIENCE, calls.wait_for(|calls| wished(calls)));
        let found = waited.await.map(|calls| calls.expect("calls").clone());
        found.unwrap_or_else(|_| panic!("not as wished: {:#?}", self.calls()))
    }

    /// The resource of a table, `None` if there is no such table.
    pub fn table(&self, project: &str, dataset: &str, table: &str) -> Option<Value> {
        let key = (project.to_owned(), dataset.to_owned(), table.to_owned());
        self.shared.state().tables.get(&key).map(Table::resource)
    }

    /// The rows of a table as they were sent, duplicates included; none if there is no such table.
    pub fn rows(&self, project: &str, dataset: &str, table: &str) -> Vec<Value> {
        let key = (project.to_owned(), dataset.to_owned(), table.to_owned());
        let state = self.shared.state();
        let table = state.tables.get(&key);
        table.map_or_else(Vec::new, |table| table.rows.clone())
    }

    /// As [`BigQuery::rows`], of those with the same value in `column` only the first.
    pub fn distinct_rows(&self, table: (&str, &str, &str), column: &str) -> Vec<Value> {
        let mut seen = HashSet::new();
        let mut rows = self.rows(table.0, table.1, table.2);
        rows.retain(|row| seen.insert(row[column].to_string()));
        rows
    }

    /// Puts rows into a table past every check of an insert and past insert ids.
    pub fn put_rows(&self, project: &str, dataset: &str, table: &str, rows: &[Value]) {
        let key = (project.to_owned(), dataset.to_owned(), table.to_owned());
        let mut state = self.shared.state();
        let table = state.tables.get_mut(&key).expect("a table");
        table.rows.extend_from_slice(rows);
    }
}

/// Milliseconds since 1970, as the API writes them.
fn now_ms() -> String {
    ms_ago(Duration::ZERO)
}

fn ms_ago(age: Duration) -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let since = since.expect("a clock after 1970").saturating_sub(age);
    since.as_millis().to_string()
}

/// Whether less than `span` has passed.
fn within(since: Instant, span: Duration) -> bool {
    since.elapsed() < span
}
