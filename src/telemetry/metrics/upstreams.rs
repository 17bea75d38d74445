//! What is said of each upstream at a scrape. Labels are base URLs from the configuration; knows nothing
//! of how upstreams come by their states.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// One upstream at the moment of a scrape.
#[derive(Clone, Debug)]
pub struct UpstreamGauges {
    /// Base URL from the configuration.
    pub url: String,
    /// Whether it answers, as far as is known.
    pub is_up: bool,
    /// Each state that there is, and whether it is in it.
    pub states: Vec<(&'static str, bool)>,
    /// How often calls have started it.
    pub wakes: u64,
    /// How long it takes to start; `None` before that was measured.
    pub start_seconds: Option<f64>,
    /// What its engine counted and what was counted here; `None` where that was not compared.
    pub tokens: Option<Tokens>,
}

/// Tokens of the same time, counted on two sides.
#[derive(Clone, Copy, Debug)]
pub struct Tokens {
    pub engine: u64,
    pub gateway: u64,
    pub unaccounted: i64,
}

type Url = [(&'static str, String); 1];
type UrlAnd = [(&'static str, String); 2];

pub(super) fn describe(registry: &mut Registry, upstreams: &[UpstreamGauges]) {
    let up = Family::<Url, Gauge>::default();
    let states = Family::<UrlAnd, Gauge>::default();
    let wakes = Family::<Url, Counter>::default();
    let starts = Family::<Url, Gauge<f64, AtomicU64>>::default();
    for upstream in upstreams {
        let url = [("upstream", upstream.url.clone())];
        up.get_or_create(&url).set(i64::from(upstream.is_up));
        for (state, is_in) in &upstream.states {
            states
                .get_or_create(&[url[0].clone(), ("state", (*state).to_owned())])
                .set(i64::from(*is_in));
        }
        wakes.get_or_create(&url).inc_by(upstream.wakes);
        if let Some(seconds) = upstream.start_seconds {
            starts.get_or_create(&url).set(seconds);
        }
    }
    registry.register(
        "tollgate_upstream_up",
        "Whether the upstream answers, as far as is known",
        up,
    );
    registry.register(
        "tollgate_upstream_state",
        "Which state the upstream is in, as far as is known",
        states,
    );
    registry.register(
        "tollgate_upstream_wakes",
        "Calls that started the upstream",
        wakes,
    );
    registry.register(
        "tollgate_upstream_start_seconds",
        "How long the upstream takes to start, as measured",
        starts,
    );
    describe_tokens(registry, upstreams);
}

fn describe_tokens(registry: &mut Registry, upstreams: &[UpstreamGauges]) {
    let compared = Family::<UrlAnd, Gauge>::default();
    let unaccounted = Family::<Url, Gauge>::default();
    for upstream in upstreams {
        let url = [("upstream", upstream.url.clone())];
        let Some(tokens) = &upstream.tokens else {
            continue;
        };
        for (by, count) in [("engine", tokens.engine), ("gateway", tokens.gateway)] {
            compared
                .get_or_create(&[url[0].clone(), ("by", by.to_owned())])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        unaccounted.get_or_create(&url).set(tokens.unaccounted);
    }
    registry.register(
        "tollgate_compared_tokens",
        "Tokens since the engine's counters were first read, by who counted them",
        compared,
    );
    registry.register(
        "tollgate_unaccounted_tokens",
        "Tokens that the engine counted and the gateway did not, less those the other way round",
        unaccounted,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::{Gauges, Metrics};

    #[test]
    fn each_upstream_has_its_lines_and_what_is_not_known_has_none() {
        let plain = UpstreamGauges {
            url: "http://h:1".to_owned(),
            is_up: true,
            states: vec![("ready", true), ("cold", false)],
            wakes: 0,
            start_seconds: None,
            tokens: None,
        };
        let compared = UpstreamGauges {
            url: "http://h:2".to_owned(),
            is_up: false,
            states: vec![("ready", false), ("cold", true)],
            wakes: 3,
            start_seconds: Some(71.5),
            tokens: Some(Tokens {
                engine: 90,
                gateway: 100,
                unaccounted: -10,
            }),
        };
        let gauges = Gauges {
            upstreams: vec![plain, compared],
            upstream_waiting: 4,
            ..Gauges::default()
        };
        let text = Metrics::new().encode(&gauges);
        for line in [
            r#"tollgate_upstream_up{upstream="http://h:1"} 1"#,
            r#"tollgate_upstream_up{upstream="http://h:2"} 0"#,
            r#"tollgate_upstream_state{upstream="http://h:2",state="cold"} 1"#,
            r#"tollgate_upstream_state{upstream="http://h:2",state="ready"} 0"#,
            r#"tollgate_upstream_wakes_total{upstream="http://h:1"} 0"#,
            r#"tollgate_upstream_wakes_total{upstream="http://h:2"} 3"#,
            r#"tollgate_upstream_start_seconds{upstream="http://h:2"} 71.5"#,
            "tollgate_upstream_waiting 4",
            r#"tollgate_unaccounted_tokens{upstream="http://h:2"} -10"#,
            r#"tollgate_compared_tokens{upstream="http://h:2",by="engine"} 90"#,
            r#"tollgate_compared_tokens{upstream="http://h:2",by="gateway"} 100"#,
        ] {
            assert!(
                text.lines().any(|shown| shown == line),
                "{line} is not in\n{text}"
            );
        }
        for absent in ["unaccounted_tokens", "upstream_start_seconds"] {
            let line = format!(r#"tollgate_{absent}{{upstream="http://h:1"}}"#);
            assert!(!text.contains(&line), "{line} is in\n{text}");
        }
    }
}
