//! The steps that bring a database's tables up to date. They only ever add, so that a binary of the
//! release before works on a newer database: steps that it does not know are ignored.

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

pub(super) fn sqlite() -> Migrator {
    migrator(&[
        (
            1,
            "usage",
            include_str!("../../migrations/sqlite/0001_usage.sql"),
        ),
        (
            2,
            "accounts",
            include_str!("../../migrations/sqlite/0002_accounts.sql"),
        ),
        (
            3,
            "woke",
            include_str!("../../migrations/sqlite/0003_woke.sql"),
        ),
    ])
}

/// The usage table is embedded alone, so its numbers are left out.
pub(super) fn postgres() -> Migrator {
    migrator(&[(
        2,
        "accounts",
        include_str!("../../migrations/postgres/0002_accounts.sql"),
    )])
}

fn migrator(steps: &[(i64, &'static str, &'static str)]) -> Migrator {
    let steps = steps.iter().map(|&(number, name, sql)| {
        let kind = MigrationType::Simple;
        Migration::new(number, name.into(), kind, sql.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(steps.collect());
    migrator.set_ignore_missing(true);
    migrator
}
