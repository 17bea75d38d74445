//! What is credited was not used, whatever the log lacks.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const LEASE: &str = "l1";

fn charged(settled: u64, left: u64) -> ChargedLease {
    ChargedLease {
        id: LEASE.to_owned(),
        owner: "service:ci".to_owned(),
        period_start_ms: 0,
        left,
        settled,
        expired_at_ms: 1000,
    }
}

fn reserved(number: u64, tokens: u64) -> Value {
    json!({"message": "reserved", "request_id": "r",
        "budget": {"owner": "service:ci", "lease": LEASE, "number": number, "tokens": tokens}})
}

fn ended(number: u64, tokens: u64) -> Value {
    json!({"message": "usage", "usage": {"request_id": "r"},
        "budget": {"lease": LEASE, "number": number, "charged": tokens}})
}

fn find(charged: ChargedLease, lines: &[Value]) -> Finding {
    let mut leases = Leases::of(vec![charged]);
    for line in lines {
        leases.note(line);
    }
    leases.conclude(1000).remove(0).1
}

#[test]
fn what_no_call_used_or_holds_is_unused() {
    let lines = [
        reserved(1, 100),
        reserved(2, 100),
        ended(1, 30),
        reserved(3, 50),
    ];
    let unused = |tokens, open| Finding::Unused { tokens, open };
    // Used for certain: 30; at most 150 more by the two that did not end.
    assert_eq!(find(charged(0, 1000), &lines), unused(820, 2));
    assert_eq!(find(charged(30, 970), &lines), unused(820, 2));
    // What was settled is told; the rest of it is in what is left.
    assert_eq!(find(charged(180, 820), &lines), unused(820, 2));
    assert_eq!(find(charged(0, 180), &lines), unused(0, 2));
    // More was used than the lease had: nothing is left to credit.
    assert_eq!(find(charged(0, 100), &lines), unused(0, 2));
    // The order of lines says nothing, nor does a line that comes twice.
    let mut mixed: Vec<Value> = lines.iter().rev().cloned().collect();
    mixed.extend(lines.clone());
    assert_eq!(find(charged(0, 1000), &mixed), unused(820, 2));
    // The end alone says enough of a call.
    assert_eq!(find(charged(0, 1000), &[ended(1, 30)]), unused(970, 0));
}

#[test]
fn a_credit_is_given_once() {
    let lines = [reserved(1, 100), ended(1, 30), reserved(2, 50)];
    let Finding::Unused { tokens, .. } = find(charged(0, 1000), &lines) else {
        panic!("nothing found");
    };
    let again = find(charged(0, 1000 - tokens), &lines);
    assert_eq!(again, Finding::Unused { tokens: 0, open: 1 });
}

#[test]
fn what_is_doubtful_stays_charged() {
    let doubtful = Finding::Doubtful;
    for (lines, finding) in [
        (vec![], Finding::Unseen),
        (vec![reserved(2, 5)], doubtful(Doubt::Gap(1))),
        (
            vec![reserved(1, 5), reserved(3, 5)],
            doubtful(Doubt::Gap(2)),
        ),
        (
            vec![reserved(1, 5), reserved(1, 6)],
            doubtful(Doubt::Contradiction(1)),
        ),
        (
            vec![ended(1, 5), ended(1, 6), reserved(2, 1)],
            doubtful(Doubt::Contradiction(1)),
        ),
        (
            vec![reserved(1, 5), ended(1, 4)],
            doubtful(Doubt::TooLittle(4)),
        ),
        // Without its figure, with a figure that is none, without a number.
        (
            vec![json!({"message": "reserved", "budget": {"lease": LEASE, "number": 1}})],
            doubtful(Doubt::Gap(1)),
        ),
        (
            vec![
                reserved(1, 9),
                json!({"message": "usage", "budget": {"lease": LEASE, "number": 2, "charged": -4}}),
            ],
            doubtful(Doubt::Gap(2)),
        ),
        (
            vec![
                json!({"message": "reserved", "budget": {"lease": LEASE, "number": 0, "tokens": 9}}),
            ],
            Finding::Unseen,
        ),
    ] {
        assert_eq!(find(charged(5, 1000), &lines), finding, "{lines:?}");
    }
}

#[test]
fn lines_of_other_leases_and_other_lines_are_passed_over() {
    let mut other = reserved(1, 9);
    other["budget"]["lease"] = json!("l2");
    let lines = [
        other,
        Value::Null,
        json!("reserved"),
        json!({"message": "reserved"}),
        json!({"message": "usage", "usage": {}}),
        json!({"message": "listening", "budget": {"lease": LEASE, "number": 1, "tokens": 1}}),
    ];
    assert_eq!(find(charged(0, 9), &lines), Finding::Unseen);
    assert!(Leases::default().conclude(0).is_empty());
}

#[test]
fn numbers_may_be_floats_as_in_cloud_logging() {
    let lines = [
        json!({"message": "reserved", "budget": {"lease": LEASE, "number": 1.0, "tokens": 100.0}}),
        json!({"message": "usage", "budget": {"lease": LEASE, "number": 1.0, "charged": 30.0}}),
    ];
    let unused = Finding::Unused {
        tokens: 970,
        open: 0,
    };
    assert_eq!(find(charged(0, 1000), &lines), unused);
}

#[test]
fn a_lease_that_ended_while_the_log_was_under_way_waits() {
    let find = |lines: &[Value]| {
        let mut leases = Leases::of(vec![charged(0, 9)]);
        for line in lines {
            leases.note(line);
        }
        leases.conclude(999).remove(0).1
    };
    assert_eq!(find(&[reserved(1, 5)]), Finding::Doubtful(Doubt::Fresh));
    assert_eq!(find(&[]), Finding::Unseen);
}

/// One call: what it reserved, the share in percent that it used, whether its end was written, and
/// whether its lines were lost.
type Told = (u64, u64, bool, bool);

proptest! {
    #[test]
    fn what_stays_charged_covers_what_was_used(
        calls in prop::collection::vec((1..1000_u64, 0..=100_u64, any::<bool>(), prop::bool::weighted(0.05)), 1..20),
        told in 0..20_usize,
        spare in 0..1000_u64,
    ) {
        let used = |call: &Told| call.0 * call.1 / 100;
        // A call that is open at the end has no more than its reservation, one that ended its charge.
        let granted: u64 = calls.iter().map(|call| call.0).sum::<u64>() + spare;
        let settled: u64 = calls.iter().take(told).filter(|call| call.2).map(used).sum();
        let truth: u64 = calls.iter().map(used).sum();
        let mut lines = Vec::new();
        for (number, call) in (1..).zip(&calls) {
            if call.3 {
                continue;
            }
            lines.push(reserved(number, call.0));
            if call.2 {
                lines.push(ended(number, used(call)));
            }
        }
        let left = granted - settled;
        let credit = match find(charged(settled, left), &lines) {
            Finding::Unused { tokens, .. } => tokens,
            Finding::Unseen | Finding::Doubtful(_) => 0,
        };
        // What cannot be seen is the loss of the last calls of all.
        let last_known = calls.iter().rposition(|call| !call.3).map_or(0, |at| at + 1);
        let unseen: u64 = calls[last_known..].iter().map(used).sum();
        prop_assert!(settled + left - credit + unseen >= truth);
        let whole = calls.iter().all(|call| !call.3);
        if whole && calls.iter().all(|call| call.2) {
            prop_assert_eq!(credit, granted - truth);
        }
    }
}
