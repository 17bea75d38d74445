//! Members of a call that some servers refuse: those that the gateway writes for its own sake, and the
//! newer name of the output's maximum. A call is sent again without them, as nothing was begun; what
//! a server refuses is left out from then on.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::failure::Rejected;
use super::models::Knowledge;
use super::request::{Payload, Request};
use super::{Endpoint, Object};

const USAGE: &str = "stream_options";
const RUNNING_USAGE: &str = "continuous_usage_stats";
const NEWER_LIMIT: &str = "max_completion_tokens";
const LIMIT: &str = "max_tokens";

/// How servers say that they do not know a member.
const UNKNOWN: [&str; 8] = [
    "extra inputs",
    "extra fields",
    "unknown",
    "unrecognized",
    "unexpected",
    "unsupported",
    "not supported",
    "not permitted",
];

/// What may be left out of a call, or said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    RunningUsage,
    Usage,
    NewerLimit,
}

/// What a server was found to refuse.
#[derive(Default)]
pub struct Refused {
    running_usage: AtomicBool,
    usage: AtomicBool,
    newer_limit: AtomicBool,
}

impl Refused {
    /// Leaves out what the server is known to refuse. Where the output must be bounded and the server
    /// may know the older name alone, that one is written, too.
    pub fn leave_out(&self, request: &mut Request, known: &Knowledge) {
        for extra in [Extra::RunningUsage, Extra::Usage, Extra::NewerLimit] {
            if self.of(extra).load(Ordering::Relaxed) {
                take_out(request, extra);
            }
        }
        if known.is_vllm == Some(false) && request.cap.is_some() {
            add_older_limit(request);
        }
    }

    /// The server took the call without it.
    pub fn note(&self, extra: Extra) {
        self.of(extra).store(true, Ordering::Relaxed);
    }

    /// Another server may have come in its place.
    pub fn forget(&self) {
        for extra in [Extra::RunningUsage, Extra::Usage, Extra::NewerLimit] {
            self.of(extra).store(false, Ordering::Relaxed);
        }
    }

    const fn of(&self, extra: Extra) -> &AtomicBool {
        match extra {
            Extra::RunningUsage => &self.running_usage,
            Extra::Usage => &self.usage,
            Extra::NewerLimit => &self.newer_limit,
        }
    }
}

/// Takes out of the call what the server refused it for, if that is nothing the call needs. Tells what
/// it was; `None` if the refusal is about something else.
pub fn take_out_refused(
    request: &mut Request,
    rejected: &Rejected,
    known: &Knowledge,
) -> Option<Extra> {
    if known.is_vllm == Some(true) || !matches!(rejected.status.as_u16(), 400 | 422) {
        return None;
    }
    let reason = rejected.reason()?;
    let is_unknown = reason.speaks_of(&UNKNOWN);
    let extra = if reason.speaks_of(&[RUNNING_USAGE]) {
        Extra::RunningUsage
    } else if is_unknown && reason.speaks_of(&[NEWER_LIMIT]) {
        Extra::NewerLimit
    } else if is_unknown || reason.speaks_of(&[USAGE]) {
        Extra::Usage
    } else {
        return None;
    };
    take_out(request, extra).then_some(extra)
}

/// Tells whether that changes the call. What the client sent itself stays, for it to be told.
fn take_out(request: &mut Request, extra: Extra) -> bool {
    let Payload::Json(object) = &mut request.payload else {
        return false;
    };
    match extra {
        Extra::RunningUsage => {
            let own = object.original(USAGE).and_then(options);
            let asked = own.is_some_and(|own| own.get(RUNNING_USAGE).is_some());
            let sent = object.present(USAGE).map(str::to_owned).and_then(options);
            let Some(mut sent) = sent.filter(|it| !asked && it.get(RUNNING_USAGE).is_some()) else {
                return false;
            };
            sent.remove(RUNNING_USAGE);
            let text = String::from_utf8_lossy(&sent.to_bytes()).into_owned();
            object.set(USAGE, text);
            true
        }
        Extra::Usage => {
            let own = object.original(USAGE);
            let changes = object.get(USAGE) != own.as_deref();
            match own {
                Some(own) => object.set(USAGE, own),
                None => object.remove(USAGE),
            }
            changes
        }
        Extra::NewerLimit => {
            let Some(limit) = object.get(NEWER_LIMIT).map(str::to_owned) else {
                return false;
            };
            object.remove(NEWER_LIMIT);
            object.set(LIMIT, limit);
            true
        }
    }
}

fn options(text: String) -> Option<Object> {
    Object::parse(Bytes::from(text)).ok()
}

fn add_older_limit(request: &mut Request) {
    let (Endpoint::ChatCompletions, Payload::Json(object)) =
        (request.endpoint, &mut request.payload)
    else {
        return;
    };
    if object.present(LIMIT).is_none()
        && let Some(limit) = object.present(NEWER_LIMIT).map(str::to_owned)
    {
        object.set(LIMIT, limit);
    }
}
