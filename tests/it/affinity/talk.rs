//! Conversations as clients lead them: each call brings the whole past, and one question more.

use serde_json::{Value, json};

use crate::fakes::wire::{Reply, Wire};
use crate::harness::{Gate, KEY};

pub const OTHER_KEY: &str = "sk-other-0123456789abcdef";

/// What tells a conversation from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `x-session-affinity`. All of them say the same, and nothing of the past but the last answer,
    /// as after a compaction.
    Session,
    /// Its opening, in each of the APIs.
    Chat,
    Messages,
    Responses,
    Completion,
}

impl Way {
    pub const ALL: [Self; 5] = [
        Self::Session,
        Self::Chat,
        Self::Messages,
        Self::Responses,
        Self::Completion,
    ];
}

/// One conversation.
#[derive(Clone)]
pub struct Talk {
    pub number: usize,
    pub way: Way,
    key: &'static str,
    /// Questions and answers, the first question first.
    past: Vec<String>,
}

impl Talk {
    pub fn new(number: usize, way: Way) -> Self {
        Self {
            number,
            way,
            key: KEY,
            past: Vec::new(),
        }
    }

    /// Led with another key.
    #[must_use]
    pub fn with_key(self, key: &'static str) -> Self {
        Self { key, ..self }
    }

    /// Sends the next turn on a connection of its own and leaves the answer unread.
    pub async fn open(&mut self, gate: &Gate) -> Wire {
        let about = if self.way == Way::Session {
            "anything".to_owned()
        } else {
            format!("matter {}", self.number)
        };
        let turn = self.past.len() / 2;
        self.past.push(format!("Question {turn} about {about}."));
        let (path, body) = self.request();
        let session = format!("ses_{}", self.number);
        let mut headers = vec![
            ("content-type", "application/json"),
            ("x-api-key", self.key),
        ];
        if self.way == Way::Session {
            headers.push(("x-session-affinity", &session));
        }
        let mut wire = gate.wire().await;
        let line = format!("POST {path}");
        let body = body.to_string();
        let sent = wire.send(&line, &headers, body.as_bytes());
        sent.await.expect("sent");
        wire
    }

    /// The next turn and its answer.
    pub async fn ask(&mut self, gate: &Gate) -> Reply {
        let reply = self.open(gate).await.reply().await.expect("an answer");
        assert_eq!(reply.status, 200, "{}", reply.text());
        self.past
            .push(format!("Answer to {}.", self.past.len() / 2));
        reply
    }

    /// The same, asked once more if the server dies over it.
    pub async fn insist(&mut self, gate: &Gate) -> Reply {
        let reply = self.open(gate).await.reply().await.expect("an answer");
        if reply.status != 200 {
            self.past.pop();
            return self.ask(gate).await;
        }
        self.past
            .push(format!("Answer to {}.", self.past.len() / 2));
        reply
    }

    fn request(&self) -> (&'static str, Value) {
        let system = "You work in a repository. ".repeat(100);
        match self.way {
            Way::Session | Way::Chat => {
                let mut messages = vec![json!({"role": "system", "content": system})];
                let mut past = self.messages();
                if self.way == Way::Session {
                    past.drain(..past.len().saturating_sub(2));
                }
                messages.extend(past);
                ("/v1/chat/completions", json!({"messages": messages}))
            }
            Way::Messages => {
                // As Claude Code does: a line that changes with each call, and marks that wander.
                let nonce = format!("x-anthropic-billing-header: cch={};", self.past.len());
                let text = |text: &str| json!({"type": "text", "text": text});
                let mut messages = self.messages();
                if let Some(last) = messages.last_mut() {
                    let mut part = text(last["content"].as_str().unwrap_or_default());
                    part["cache_control"] = json!({"type": "ephemeral"});
                    last["content"] = json!([part]);
                }
                let system = json!([text(&nonce), text(&system)]);
                let body = json!({"system": system, "messages": messages, "max_tokens": 8});
                ("/v1/messages", body)
            }
            Way::Responses => {
                let body = json!({"instructions": system, "input": self.messages()});
                ("/v1/responses", body)
            }
            Way::Completion => {
                let prompt = format!(
                    "Of matter {}. {system}{}",
                    self.number,
                    self.past.join("\n")
                );
                ("/v1/completions", json!({"prompt": prompt}))
            }
        }
    }

    fn messages(&self) -> Vec<Value> {
        let roles = ["user", "assistant"].into_iter().cycle();
        let past = self.past.iter().zip(roles);
        past.map(|(text, role)| json!({"role": role, "content": text}))
            .collect()
    }
}
