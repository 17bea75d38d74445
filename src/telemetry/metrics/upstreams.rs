//! What is said of each upstream at a scrape. Labels are base URLs from the configuration; knows nothing
//! of how upstreams come by their states.

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

type PerUpstream = Family<[(&'static str, String); 1], Gauge>;
type PerUpstreamAnd = Family<[(&'static str, String); 2], Gauge>;

pub(super) fn describe(registry: &mut Registry, upstreams: &[UpstreamGauges]) {
    let (up, unaccounted) = (PerUpstream::default(), PerUpstream::default());
    let compared = PerUpstreamAnd::default();
    for upstream in upstreams {
        let label = ("upstream", upstream.url.clone());
        up.get_or_create(&[label.clone()])
            .set(i64::from(upstream.is_up));
        if let Some(tokens) = &upstream.tokens {
            unaccounted
                .get_or_create(&[label.clone()])
                .set(tokens.unaccounted);
            for (by, count) in [("engine", tokens.engine), ("gateway", tokens.gateway)] {
                compared
                    .get_or_create(&[label.clone(), ("by", by.to_owned())])
                    .set(wide(count));
            }
        }
    }
    registry.register(
        "tollgate_upstream_up",
        "Whether the upstream answers, as far as is known",
        up,
    );
    registry.register(
        "tollgate_compared_tokens",
        "Tokens since the first comparison with the engine's counters, by who counted them",
        compared,
    );
    registry.register(
        "tollgate_unaccounted_tokens",
        "Tokens that the engine counted and the gateway did not, less those the other way round",
        unaccounted,
    );
}

fn wide(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
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
            tokens: None,
        };
        let compared = UpstreamGauges {
            url: "http://h:2".to_owned(),
            is_up: false,
            tokens: Some(Tokens {
                engine: 90,
                gateway: 100,
                unaccounted: -10,
            }),
        };
        let gauges = Gauges {
            upstreams: vec![plain, compared],
            ..Gauges::default()
        };
        let text = Metrics::new().encode(&gauges);
        for line in [
            r#"tollgate_upstream_up{upstream="http://h:1"} 1"#,
            r#"tollgate_upstream_up{upstream="http://h:2"} 0"#,
            r#"tollgate_unaccounted_tokens{upstream="http://h:2"} -10"#,
            r#"tollgate_compared_tokens{upstream="http://h:2",by="engine"} 90"#,
            r#"tollgate_compared_tokens{upstream="http://h:2",by="gateway"} 100"#,
        ] {
            assert!(
                text.lines().any(|shown| shown == line),
                "{line} is not in\n{text}"
            );
        }
        assert!(!text.contains(r#"tollgate_unaccounted_tokens{upstream="http://h:1"}"#));
    }
}
