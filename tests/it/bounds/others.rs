//! A call that another model may take is bounded by the worse of the two.

use tollgate::config::{Fallback, UpstreamConfig, UpstreamsConfig};
use tollgate::upstream::Endpoint;

use super::super::fakes::model_server::{ModelServer, Settings};
use super::bodies::Body;
use super::{request, upstreams};

#[tokio::test]
async fn one_model_s_count_of_a_prompt_is_not_taken_for_another_s() {
    let server = |model: &str, max_model_len| {
        let model = model.to_owned();
        ModelServer::start(Settings {
            model,
            max_model_len,
            ..Settings::default()
        })
    };
    let (small, large) = (server("small", 2048).await, server("large", 4096).await);
    let text = format!(
        r#"{{"model":"small","max_tokens":9,"messages":[{{"role":"user","content":"{}"}}]}}"#,
        "word ".repeat(40)
    );
    let endpoint = Endpoint::ChatCompletions;
    let request = request(&Body { endpoint, text }).expect("a request");
    for has_fallback in [false, true] {
        let mut first = UpstreamConfig::at(vec![small.url()]);
        first.models = vec!["small".to_owned()];
        if has_fallback {
            first.fallback = vec![Fallback::Upstream("other".to_owned())];
        }
        let mut other = UpstreamConfig::at(vec![large.url()]);
        other.name = "other".to_owned();
        other.models = vec!["large".to_owned()];
        let known = upstreams(&UpstreamsConfig {
            upstreams: vec![first, other],
            aliases: [].into(),
        });
        known.learn_template(&request).await;
        let bound = known.bound(&request).expect("a bound");
        let counted = known.counted_bound(&request, &bound).await;
        assert_eq!(counted.is_none(), has_fallback, "{bound:?} {counted:?}");
    }
}
