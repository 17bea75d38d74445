//! The fourth hop: a plain chat gets its answer. The model server may sleep, so this is the hop that
//! waits, and says so.

use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, interval_at, sleep};

use super::Outcome;
use super::report::{Broken, Passed};
use crate::cli::remote::remedy::{error_of, explain, unanswered};
use crate::cli::remote::{Answer, Remote, Trouble};

pub const PATH: &str = "/v1/chat/completions";

/// Between two lines that say what is waited for.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// A refusal for now without a time is asked again after this.
const PAUSE: Duration = Duration::from_secs(5);
const STATE_LIMIT: Duration = Duration::from_secs(2);

/// Asks for a few words.
pub async fn check(remote: &Remote, model: &str, wait: Duration) -> Outcome<()> {
    let body = json!({
        "model": model,
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 16,
    });
    let began = Instant::now();
    let answer = ask(remote, &body, wait).await;
    let took = began.elapsed();
    let answer = match answer {
        Ok(answer) => answer,
        Err(Trouble::TimedOut) => return Err(in_vain(remote, wait).await),
        Err(trouble) => return Err(unanswered(&trouble, remote)),
    };
    if !answer.is_success() {
        return Err(explain(&answer, remote));
    }
    let said = answer.json();
    if !said["choices"][0]["message"].is_object() {
        return Err(no_chat(&answer));
    }
    let served = said["model"].as_str().unwrap_or(model);
    let passed = Passed::new(format!(
        "{served} answered in {:.1} s{}",
        took.as_secs_f64(),
        counts(&said["usage"])
    ));
    Ok(if said["usage"].is_object() {
        passed
    } else {
        passed.warn("the answer tells no usage: what it cost is an estimate, and token budgets are charged at the most it can have been")
    })
}

/// Tokens of an answer, in brackets.
pub fn counts(usage: &Value) -> String {
    match (
        usage["prompt_tokens"].as_u64(),
        usage["completion_tokens"].as_u64(),
    ) {
        (Some(prompt), Some(completion)) => format!(" ({prompt} + {completion} tokens)"),
        _ => String::new(),
    }
}

/// An answer with a good status that is no chat.
pub fn no_chat(answer: &Answer) -> Broken {
    let kind = answer.header("content-type");
    Broken::new(
        format!("{} ({kind}), but no chat completion", answer.status),
        "the model has to be one for chats (embedding models are not): name another with --model. If it is one, something in between changes answers",
    )
}

/// Asks until the model server is there, or the time is over.
async fn ask(remote: &Remote, body: &Value, wait: Duration) -> Result<Answer, Trouble> {
    let began = Instant::now();
    let deadline = began + wait;
    let asking = async {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = remote.post(PATH, body, left).await?;
            let pause = pause_of(&answer).filter(|pause| Instant::now() + *pause < deadline);
            match pause {
                Some(pause) => sleep(pause).await,
                None => return Ok(answer),
            }
        }
    };
    tokio::pin!(asking);
    let mut ticks = interval_at(began + TELL_EVERY, TELL_EVERY);
    loop {
        tokio::select! {
            answer = &mut asking => return answer,
            _ = ticks.tick() => tell(remote, began.elapsed(), wait).await,
        }
    }
}

/// How long to wait before the next try, if the answer says that one is worth while.
fn pause_of(answer: &Answer) -> Option<Duration> {
    let (code, _) = error_of(&answer.json())?;
    if !matches!(code.as_str(), "upstream_starting" | "overloaded") {
        return None;
    }
    let seconds = answer.header("retry-after").parse().ok();
    Some(seconds.map_or(PAUSE, Duration::from_secs))
}

/// Says on standard error what is waited for.
async fn tell(remote: &Remote, waited: Duration, wait: Duration) {
    let state = state(remote).await;
    let (waited, most) = (waited.as_secs(), wait.as_secs());
    // A closed terminal leaves nobody to tell.
    let _unread = writeln!(
        std::io::stderr(),
        "chat: waiting for the model server ({state}), {waited} s of {most} s at the most"
    );
}

async fn in_vain(remote: &Remote, wait: Duration) -> Broken {
    let state = state(remote).await;
    let todo = match state.as_str() {
        "starting" | "cold" | "down" => {
            "the model server does not come: look at its log, and at VLLM_ENDPOINT on the gateway. A large model takes minutes to load: give doctor a longer --wait"
        }
        _ => {
            "look whether the model server hangs or is out of reach (its log, its GPU, VLLM_ENDPOINT on the gateway), or give doctor a longer --wait"
        }
    };
    Broken::new(
        format!(
            "no answer within {} s; the gateway says that the model server is {state}",
            wait.as_secs()
        ),
        todo,
    )
}

/// What the gateway knows of its model servers, in a word each.
async fn state(remote: &Remote) -> String {
    let ready = remote.get("/ready", STATE_LIMIT).await;
    let ready = ready.map_or(Value::Null, |answer| answer.json());
    let upstreams = ready["upstreams"].as_array().into_iter().flatten();
    let states: Vec<&str> = upstreams
        .filter_map(|upstream| upstream["state"].as_str())
        .collect();
    if states.is_empty() {
        "in a state unknown".to_owned()
    } else {
        remote.clean(&states.join(", "))
    }
}
