//! What upstreams of one file are to one another.

use super::*;

/// Two upstreams with these lines besides.
fn pair(one: &str, two: &str) -> String {
    format!(
        "[[upstream]]\nname = \"one\"\nurls = [\"http://one\"]\n{one}\n\
         [[upstream]]\nname = \"two\"\nurls = [\"http://two\"]\n{two}\n"
    )
}

#[test]
fn one_name_means_one_model() {
    for (one, two) in [
        ("models = [\"m\"]", "models = [\"m\"]"),
        (
            "models = [\"m\"]\naliases = {a = \"m\"}",
            "aliases = {a = \"m\"}",
        ),
        (
            "models = [\"m\"]\naliases = {a = \"*\"}",
            "aliases = {a = \"m\"}",
        ),
        ("aliases = {a = \"a\"}", "models = [\"a\"]"),
    ] {
        let config = good(&pair(one, two), &[]);
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }
    for (one, two, right) in [
        (
            "aliases = {a = \"m\"}",
            "aliases = {a = \"n\"}",
            "line 8: upstream `two`: `a` is `n` here and `m` in upstream `one`",
        ),
        (
            "aliases = {a = \"m\"}",
            "models = [\"a\"]",
            "line 8: upstream `two`: `a` is `a` here and `m` in",
        ),
        (
            "models = [\"m\", \"a\"]\naliases = {a = \"m\"}",
            "",
            "upstream `one`: `a` is `m` here and `a` in upstream `one`",
        ),
        (
            "models = [\"m\"]\naliases = {a = \"n\"}",
            "",
            "line 5: upstream `one`: the alias `a` stands for `n`, which `models` lacks",
        ),
        (
            "models = [\"m\", \"n\"]\naliases = {a = \"*\"}",
            "",
            "`a` is `*`, the only model, but `models` has several",
        ),
    ] {
        let [fault] = &*faults(&pair(one, two), &[]) else {
            panic!("one fault: {one} {two}: {:?}", faults(&pair(one, two), &[]));
        };
        assert!(fault.contains(right), "{fault}");
    }
    let unsure = good(&pair("aliases = {a = \"*\"}", "aliases = {a = \"*\"}"), &[]);
    assert_eq!(unsure.warnings.len(), 2, "{:?}", unsure.warnings);
}

#[test]
fn fallbacks_lead_to_other_upstreams_or_their_models() {
    let model = |name: &str| Fallback::Model(name.to_owned());
    let upstream = |name: &str| Fallback::Upstream(name.to_owned());
    let two = "models = [\"m\"]\naliases = {\"m-2.5\" = \"m\"}\nfallback = [\"one\"]";
    let text = pair(
        "models = [\"m\"]\nfallback = [\"two\", \"m\", \"m-2.5\"]",
        two,
    );
    let config = good(&text, &[]);
    let [one, two] = &*config.upstreams.upstreams else {
        panic!("two upstreams");
    };
    assert_eq!(one.fallback, [upstream("two"), model("m"), model("m-2.5")]);
    assert_eq!(
        two.fallback,
        [upstream("one")],
        "each for the other is good"
    );
    for (one, right) in [
        (
            "fallback = [\"two\", \"two\"]",
            "`fallback` names `two` twice",
        ),
        ("fallback = [\"twoo\"]", "did you mean `two`?"),
        (
            "models = [\"m\"]\nfallback = [\"m\"]",
            "cannot stand in for itself",
        ),
    ] {
        let faults = faults(&pair(one, ""), &[]);
        assert!(faults.len() == 1 && faults[0].contains(right), "{faults:?}");
    }
}
