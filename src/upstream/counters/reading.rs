//! What an engine's metrics page says of the tokens that it counted. Pure; knows two counters and one
//! gauge of the Prometheus text format, and nothing of who asks.

/// Tokens of prompts, cached ones included, once for each choice.
const PROMPT: &str = "vllm:prompt_tokens_total";
/// Tokens generated, also for clients that left.
const GENERATED: &str = "vllm:generation_tokens_total";
/// Seconds since 1970. Pages that several processes make together lack it.
const STARTED: &str = "process_start_time_seconds";

/// An engine's counters at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// All that it counted since it started, prompts and output together.
    pub tokens: u64,
    /// When its process started, in milliseconds since 1970; `None` where the page does not tell.
    pub started_ms: Option<u64>,
}

impl Reading {
    /// Reads a whole page; a counter that stands there for several models or engines is added up, one
    /// that is not there yet counted nothing. `None` if there is none of them.
    pub fn parse(page: &str) -> Option<Self> {
        let mut prompt = None;
        let mut generated = None;
        let mut started = None;
        for (name, value) in page.lines().filter_map(sample) {
            let sum = match name {
                PROMPT => &mut prompt,
                GENERATED => &mut generated,
                STARTED => &mut started,
                _ => continue,
            };
            *sum = Some(sum.unwrap_or(0.0) + value);
        }
        prompt.or(generated)?;
        let read = |sum: Option<f64>| whole(sum.unwrap_or(0.0));
        let tokens = read(prompt)?.checked_add(read(generated)?)?;
        let started_ms = started.and_then(|seconds| whole(seconds * 1000.0));
        Some(Self { tokens, started_ms })
    }
}

/// Name and value of a line that holds a sample.
fn sample(line: &str) -> Option<(&str, f64)> {
    let name_end = line.find(['{', ' ', '\t'])?;
    let (name, rest) = line.split_at(name_end);
    let rest = match rest.strip_prefix('{') {
        Some(labels) => labels.get(labels_end(labels)? + 1..)?,
        None => rest,
    };
    // A time or an example may follow.
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some((name, value))
}

/// Where the brace is that ends the labels: values stand in quotes and may hold braces themselves.
fn labels_end(labels: &str) -> Option<usize> {
    let mut is_quoted = false;
    let mut is_escaped = false;
    for (at, byte) in labels.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b'}' if !is_quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Pages hold floats; a count is whole and not negative.
fn whole(value: f64) -> Option<u64> {
    if !value.is_finite() || value < 0.0 {
        return None;
    }
    format!("{value:.0}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PYTHON: &str = r#"# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.79325597543e+09
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="tiny-chat"} 6650.0
vllm:prompt_tokens_created{engine="0",model_name="tiny-chat"} 1.7932559e+09
vllm:prompt_tokens_by_source_total{engine="0",model_name="tiny-chat",source="local_compute"} 1786.0
vllm:request_prompt_tokens_sum{engine="0",model_name="tiny-chat"} 6650.0
vllm:generation_tokens_total{engine="0",model_name="tiny-chat"} 1088.0
"#;

    #[test]
    fn both_front_ends_are_understood() {
        let read = Reading::parse(PYTHON).unwrap();
        assert_eq!(read.tokens, 7738);
        assert_eq!(read.started_ms, Some(1_793_255_975_430));
        let rust = "vllm:prompt_tokens_total{model_name=\"m\",engine=\"0\"} 1711\n\
                    vllm:generation_tokens_total{model_name=\"m\",engine=\"0\"} 332\n# EOF\n";
        let read = Reading::parse(rust).unwrap();
        assert_eq!((read.tokens, read.started_ms), (2043, None));
    }

    #[test]
    fn engines_and_models_are_added_up_whatever_their_names_hold() {
        let page = "vllm:prompt_tokens_total{engine=\"0\",model_name=\"a } \\\" 9\"} 1.5e+06\n\
                    vllm:prompt_tokens_total{engine=\"1\"} 2 1793255975000\n\
                    vllm:generation_tokens_total 3 # {trace=\"x\"} 1\n\
                    vllm:generation_tokens_total{engine=\"1\"} 4\n";
        assert_eq!(Reading::parse(page).unwrap().tokens, 1_500_009);
    }

    #[test]
    fn what_holds_no_count_is_no_reading() {
        // The Rust front end shows the one from its start and the other from its first prompt on.
        let fresh = Reading::parse("vllm:generation_tokens_total 0\n").unwrap();
        assert_eq!(fresh.tokens, 0);
        for page in [
            "",
            "process_start_time_seconds 1.0",
            "vllm:prompt_tokens_total NaN\nvllm:generation_tokens_total 1",
            "vllm:prompt_tokens_total -1\nvllm:generation_tokens_total 1",
            "vllm:prompt_tokens_total{a=\" 1",
            "<html>vllm:prompt_tokens_total</html>",
        ] {
            assert_eq!(Reading::parse(page), None, "{page}");
        }
    }
}
