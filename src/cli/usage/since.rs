//! Where a report begins. Pure.

use std::time::Duration;

use anyhow::Context;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, PrimitiveDateTime, Time, macros::format_description};

const DATE: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");
const WORDS: &str =
    "use a span like 7d, 24h or 30m, a date like 2026-11-01, or a time like 2026-11-01T00:00:00Z";

/// A span before now, or a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    Ago(Duration),
    At(OffsetDateTime),
}

impl Since {
    /// # Errors
    /// When the span reaches back further than the calendar.
    pub(super) fn resolve(self, now: OffsetDateTime) -> anyhow::Result<OffsetDateTime> {
        match self {
            Self::At(at) => Ok(at),
            Self::Ago(ago) => time::Duration::try_from(ago)
                .ok()
                .and_then(|ago| now.checked_sub(ago))
                .context("--since reaches back further than the calendar"),
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Since, String> {
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(Since::At(at));
    }
    if let Ok(date) = time::Date::parse(text, DATE) {
        return Ok(Since::At(
            PrimitiveDateTime::new(date, Time::MIDNIGHT).assume_utc(),
        ));
    }
    let unit_seconds = match text.chars().last() {
        Some('d') => 86_400,
        Some('h') => 3600,
        Some('m') => 60,
        _ => return Err(WORDS.to_owned()),
    };
    let count = text[..text.len() - 1]
        .parse::<u32>()
        .map_err(|_| WORDS.to_owned())?;
    Ok(Since::Ago(Duration::from_secs(
        u64::from(count) * unit_seconds,
    )))
}
