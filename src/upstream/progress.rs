//! What a call has been through on its way, readable when the call itself is gone. Pure.

use std::sync::{Arc, Mutex};

use super::counters::Stay;
use super::target::{Target, lock};

/// What a call has been through so far.
#[derive(Clone, Default)]
pub struct Passage {
    /// Requests sent that carried the call.
    pub attempts: u32,
    /// Time spent waiting for a target to come up, in milliseconds.
    pub wait_ms: u64,
    /// The model id sent upstream, if it is known.
    pub served_model: Option<String>,
    /// The target that was tried last.
    pub target: Option<Arc<Target>>,
    /// The engine may have worked on the call: it was sent, and not refused before it began.
    pub begun: bool,
    /// The call started a server that slept.
    pub woke: bool,
}

/// A call's passage, readable when the call itself is gone. Dropped when the call has settled.
#[derive(Default)]
pub struct Progress(Mutex<(Passage, Option<Stay>)>);

impl Progress {
    #[must_use]
    pub fn so_far(&self) -> Passage {
        lock(&self.0).0.clone()
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut Passage)) {
        let mut held = lock(&self.0);
        let (passage, stay) = &mut *held;
        change(passage);
        if let Some(target) = &passage.target
            && !stay.as_ref().is_some_and(|stay| stay.is_at(target))
        {
            *stay = Some(Stay::begin(target.clone()));
        }
    }
}
