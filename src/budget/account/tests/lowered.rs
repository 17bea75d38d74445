//! A limit that is lowered below what others hold already.

use super::*;

/// Free tokens of a lease that was granted on the higher limit are no room on the lower one.
#[tokio::test(start_paused = true)]
async fn what_is_in_hand_is_of_no_use_beyond_a_lowered_limit() {
    let mut world = World::new(10_000, Period::Total);
    let one = Need { least: 1, most: 1 };
    let most = Need {
        least: 6_000,
        most: 6_000,
    };
    world.reserve(0, one).expect("the first has a slice");
    // Another takes the most, and the first does not know.
    world.reserve(1, most).expect("there is room");
    world.limit = 5_000;
    assert_eq!(
        world.reserve(0, one),
        None,
        "more is taken than there may be"
    );
    // It is room again for those who ask when the other has ended.
    world.end(1, 0, |_| None);
    for _ in 0..2 {
        let now = world.reading(1);
        if let Some(outgoing) = world.instances[1].account.tell(Tell::All, &now) {
            world.send(1, &outgoing);
        }
    }
    world.passed += REMEMBERED;
    world.reserve(0, one).expect("there is room again");
}
