//! Minutes in which nobody calls, on a clock that is pushed: what the gateway then sends (nothing), and what it
//! makes of a target that it has not heard of for long. The whole gateway runs in this process.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tollgate::app::App;
use tollgate::config::{Config, Sources};
use tollgate::http::Surface;

use super::fakes::model_server::{Answer, Arrived, Behaviour, Meanwhile, ModelServer, Settings};
use super::fakes::wire::{self, Reply};
use super::harness::{KEY, PATIENCE};
use super::states::{CHAT, GENTLE, Target, call, file};

const MINUTE: u64 = 60;

/// A gateway and its only target.
struct Still {
    server: ModelServer,
    addr: SocketAddr,
    _folder: TempDir,
    _stop: DropGuard,
}

impl Still {
    async fn before(target: Target) -> Self {
        let server = ModelServer::start(Settings::default()).await;
        let folder = tempfile::tempdir().expect("a folder");
        let keys = json!({"test": KEY, "gentle": {"key": GENTLE, "wake": false}});
        let paths = ["keys.json", "upstreams.toml"].map(|name| folder.path().join(name));
        std::fs::write(&paths[0], keys.to_string()).expect("a keys file");
        std::fs::write(&paths[1], file(&[server.url()], target)).expect("an upstreams file");
        let data = folder.path().join("data");
        let settings = [
            ("API_KEYS_FILE", paths[0].to_str()),
            ("UPSTREAMS_FILE", paths[1].to_str()),
            ("DATA_DIR", data.to_str()),
            ("DATABASE_URL", Some("none")),
            ("USAGE_SINK", Some("none")),
        ];
        let settings =
            settings.map(|(name, value)| (name.to_owned(), value.expect("a value").to_owned()));
        let sources = Sources {
            environment: settings.into(),
            ..Sources::default()
        };
        let config = Config::from_sources(&sources).unwrap_or_else(|error| panic!("{error}"));
        let app = App::build(config).await.expect("a gateway");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let ended = stop.clone().cancelled_owned();
        tokio::spawn(Box::pin(app.run(vec![(listener, Surface::All)], ended)));
        Self {
            server,
            addr,
            _folder: folder,
            _stop: stop.drop_guard(),
        }
    }

    async fn ask(&self, line: &str, key: &str, body: &str) -> Reply {
        wire::exchange(self.addr, line, &[("x-api-key", key)], body.as_bytes())
            .await
            .expect("an answer")
    }

    async fn call(&self, key: &str) -> Reply {
        self.ask(&format!("POST {CHAT}"), key, &call(false).to_string())
            .await
    }

    async fn list(&self) -> Value {
        let reply = self.ask("GET /v1/models", KEY, "").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    async fn state(&self) -> String {
        let ready = self.ask("GET /ready", KEY, "").await.json();
        ready["upstreams"][0]["state"]
            .as_str()
            .expect("a state")
            .to_owned()
    }

    /// What has arrived at the target; whatever was sent before this is in it.
    async fn arrived(&self) -> Arrived {
        assert_eq!(self.ask("GET /health", KEY, "").await.status, 200);
        self.server.arrived()
    }
}

/// Lets so many seconds pass, each with all that it brings.
async fn pass(seconds: u64) {
    tokio::time::pause();
    for _ in 0..seconds {
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::resume();
}

#[tokio::test]
async fn an_idle_target_receives_nothing_in_fifteen_minutes() {
    for target in [Target::ScalesToZero, Target::Stays] {
        let still = Still::before(target).await;
        let nothing = still.arrived().await;
        assert_eq!(
            (nothing.connections, nothing.bytes),
            (0, 0),
            "{target:?}: at the start"
        );
        for round in 0..2 {
            assert_eq!(still.call(KEY).await.status, 200);
            // The traffic itself may have made the gateway ask something.
            pass(61).await;
            let before = still.arrived().await;
            assert!(before.bytes > nothing.bytes);
            pass(15 * MINUTE).await;
            assert_eq!(still.arrived().await, before, "{target:?} {round}");
        }
        // And it would have been seen.
        let before = still.arrived().await;
        still.list().await;
        let asks = still.arrived().await != before;
        assert_eq!(
            asks,
            target == Target::Stays,
            "{target:?}: the list is asked of what stays"
        );
    }
}

#[tokio::test]
async fn what_may_sleep_is_cold_after_ten_minutes_and_what_stays_is_not() {
    for target in [Target::ScalesToZero, Target::Stays] {
        let still = Still::before(target).await;
        assert_eq!(still.call(KEY).await.status, 200);
        pass(9 * MINUTE).await;
        assert_eq!(still.state().await, "ready", "{target:?}");
        pass(2 * MINUTE).await;
        let stays = target == Target::Stays;
        assert_eq!(still.state().await, if stays { "ready" } else { "cold" });
        let before = still.arrived().await;
        let list = still.list().await;
        assert!(
            list["data"].to_string().contains("tiny-chat"),
            "the last known one: {list}"
        );
        let tokens = r#"{"model": "tiny-chat", "prompt": "Hello"}"#;
        let count = still.ask("POST /tokenize", KEY, tokens).await;
        let gentle = still.call(GENTLE).await;
        if stays {
            assert_eq!((count.status, gentle.status), (200, 200));
        } else {
            assert_eq!(count.status, 503, "{}", count.text());
            let code = &gentle.json()["error"]["code"];
            assert_eq!(code, "wake_not_allowed", "{}", gentle.text());
            assert_eq!(still.arrived().await, before, "nothing woke it");
        }
        assert_eq!(still.call(KEY).await.status, 200);
        assert_eq!(still.state().await, "ready");
        assert_eq!(still.call(GENTLE).await.status, 200);
    }
}

#[tokio::test]
async fn in_the_minute_after_an_answer_the_front_end_makes_nothing_start() {
    for target in [Target::ScalesToZero, Target::Stays] {
        let still = Still::before(target).await;
        assert_eq!(still.call(KEY).await.status, 200);
        pass(50).await;
        still.server.next(Behaviour::answer(Answer::no_instance()));
        let reply = still.call(KEY).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(still.state().await, "ready");
        pass(70).await;
        still.server.shut(Meanwhile::Answers(Answer::no_instance()));
        let (reply, ()) = tokio::join!(still.call(KEY), async {
            still
                .server
                .wait_for(|calls| calls.last().is_some_and(|call| call.status == Some(429)))
                .await;
            let began = std::time::Instant::now();
            while still.state().await != "starting" {
                assert!(began.elapsed() < PATIENCE, "{target:?}: it does not start");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            still.server.open();
        });
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(still.state().await, "ready");
    }
}

#[tokio::test]
async fn a_minute_after_the_last_call_what_may_sleep_is_asked_for_no_list() {
    let still = Still::before(Target::ScalesToZero).await;
    assert_eq!(still.call(KEY).await.status, 200);
    pass(61).await;
    let before = still.arrived().await;
    for _ in 0..5 {
        let list = still.list().await;
        assert!(list["data"].to_string().contains("tiny-chat"), "{list}");
        pass(20).await;
    }
    assert_eq!(still.arrived().await, before);
}
