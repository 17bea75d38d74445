//! What clients, rows and `/ready` show while a model server is unknown, starting, ready, cold or
//! down; and what the server sees of it.

mod bench;
mod coming;
mod lasting;
mod room;
mod unknown;

pub use bench::{CHAT, GENTLE, Shown, Target, call, file, gate, most_at_once, seen, show};
