//! Peers that poll and acknowledge what they got.

use super::*;

fn acknowledging(number: u64) -> WaitOpts {
    WaitOpts {
        acknowledged: Some(number),
        limit: None,
    }
}

/// Hands what there is over to a wait with this acknowledgement. Returns its number.
async fn hand_over(list: &TestList, id: PeerId, ack: u64) -> u64 {
    let waiting = wait_with(list, id, acknowledging(ack));
    // What is repeated is repeated a second later.
    let delivery = list.within(Duration::from_secs(1), waiting).await.unwrap();
    let number = number(&delivery);
    delivery.done();
    list.settle().await;
    number
}

/// Two peers that know of each other, of which the first was sent this many messages.
async fn with_messages(engine: EngineKind, count: u8) -> (TestList, SignedIn) {
    let list = engine.default_list().await;
    let b = sign_in(&list, "b").await;
    let a = added(&list, "a", LISTED).await;
    for number in 1..=count {
        let body = Bytes::copy_from_slice(&[number]);
        list.send(b, a.id, body, SendOpts::default()).await.unwrap();
    }
    (list, a)
}

/// The number of the message that a wait is given, which is its body too.
fn number(delivery: &Delivery) -> u64 {
    let News::Message { body, .. } = delivery.news() else {
        panic!("{delivery:?} is no message");
    };
    assert_eq!(u64::from(body[0]), delivery.number());
    delivery.number()
}

async fn a_message_comes_again_until_it_is_acknowledged(engine: EngineKind) {
    let (list, SignedIn { id: a, .. }) = with_messages(engine, 2).await;
    for (ack, expected) in [(0, 1), (0, 1), (1, 2), (0, 2), (1, 2)] {
        assert_eq!(hand_over(&list, a, ack).await, expected);
    }
    let mut last = wait_with(&list, a, acknowledging(2));
    assert!(list.is_open(&mut last).await);
}

async fn a_repeat_comes_a_second_later_and_something_new_at_once(engine: EngineKind) {
    let (list, SignedIn { id: a, .. }) = with_messages(engine, 2).await;
    let start = Instant::now();
    hand_over(&list, a, 0).await;
    hand_over(&list, a, 1).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    let mut repeat = wait_with(&list, a, acknowledging(1));
    list.pass(Duration::from_millis(999)).await;
    assert!(list.is_open(&mut repeat).await);
    list.pass(Duration::from_millis(1)).await;
    list.now(repeat).await.unwrap().done();
    // It is put off no longer than the wait lasts.
    let limit = Duration::from_millis(100);
    let opts = WaitOpts {
        acknowledged: Some(1),
        limit: Some(limit),
    };
    let none = list.within(limit, wait_with(&list, a, opts)).await.unwrap();
    assert!(matches!(none.news(), News::Nothing(_)));
}

async fn a_wait_whose_repeat_is_put_off_ends_at_once_when_its_peer_is_removed(engine: EngineKind) {
    let (list, SignedIn { id: a, .. }) = with_messages(engine, 1).await;
    hand_over(&list, a, 0).await;
    let mut repeat = wait_with(&list, a, acknowledging(0));
    assert!(list.is_open(&mut repeat).await);
    list.remove_peer(a, Reason::SignedOut).await.unwrap();
    let end = list.now(&mut repeat).await.unwrap();
    assert_eq!(*end.news(), News::Nothing("b,1,1\n".into()));
}

async fn what_was_never_delivered_cannot_be_acknowledged(engine: EngineKind) {
    let (list, SignedIn { id: a, .. }) = with_messages(engine, 2).await;
    for ack in [2, 7, u64::MAX] {
        let delivery = list
            .now(wait_with(&list, a, acknowledging(ack)))
            .await
            .unwrap();
        let News::Message { body, .. } = delivery.news() else {
            panic!("{delivery:?} is no message");
        };
        assert_eq!(*body, [1][..]);
        drop(delivery);
        list.settle().await;
    }
}

async fn a_wait_that_does_not_acknowledge_is_given_what_is_not_acknowledged_yet(
    engine: EngineKind,
) {
    let (list, SignedIn { id: a, .. }) = with_messages(engine, 3).await;
    hand_over(&list, a, 0).await;
    hand_over(&list, a, 1).await;
    for expected in [2, 3] {
        let delivery = list.now(wait(&list, a)).await.unwrap();
        assert_eq!(number(&delivery), expected);
        delivery.done();
        list.settle().await;
    }
}

async fn a_wait_is_given_what_comes_after_its_own_acknowledgement(engine: EngineKind) {
    let (list, SignedIn { id: a, .. }) = with_messages(engine, 2).await;
    let first = list
        .now(wait_with(&list, a, acknowledging(0)))
        .await
        .unwrap();
    // Begun while the first is on loan, by a client that never saw its reply.
    let mut second = wait_with(&list, a, acknowledging(0));
    assert!(list.is_open(&mut second).await);
    first.done();
    // As a repeat, a second later at the latest.
    let given = list.within(Duration::from_secs(1), second).await.unwrap();
    assert_eq!(number(&given), 1);
}

async fn a_peer_that_polls_is_refused_more_when_its_mailbox_is_full_also_if_it_acknowledges(
    engine: EngineKind,
) {
    let list = engine.bounded_list(MESSAGE_OVERHEAD_BYTES).await;
    let a = sign_in(&list, "a").await;
    say(&list, a, a, "").await;
    let first = list
        .now(wait_with(&list, a, acknowledging(0)))
        .await
        .unwrap();
    assert_eq!(first.number(), 1);
    first.done();
    list.settle().await;
    let refused = list.send(a, a, Bytes::new(), SendOpts::PATIENT);
    let refused = list.within(2 * SPACE_PATIENCE, refused).await;
    assert_eq!(refused.unwrap_err(), Refusal::MailboxFull);
    let mut next = wait_with(&list, a, acknowledging(1));
    assert!(list.is_open(&mut next).await);
    say(&list, a, a, "").await;
}

every_list! {
    a_message_comes_again_until_it_is_acknowledged,
    a_repeat_comes_a_second_later_and_something_new_at_once,
    a_wait_whose_repeat_is_put_off_ends_at_once_when_its_peer_is_removed,
    what_was_never_delivered_cannot_be_acknowledged,
    a_wait_that_does_not_acknowledge_is_given_what_is_not_acknowledged_yet,
    a_wait_is_given_what_comes_after_its_own_acknowledgement,
    a_peer_that_polls_is_refused_more_when_its_mailbox_is_full_also_if_it_acknowledges,
}

/// What a client on a bad network does next.
#[derive(Clone, Debug)]
enum Poll {
    /// Polls, and the reply arrives.
    Arrives,
    /// Polls, and is cut off before it is given anything.
    CutBefore,
    /// Polls, and is cut off while the reply is made.
    CutWhileLent,
    /// Polls, and the reply is lost.
    Lost,
    /// Signs in again with its token while a reply is made.
    Resumes,
}

/// What happens, and by how much its acknowledgement is late; from 250 on, it is one of
/// another mailbox.
fn poll() -> impl Strategy<Value = (Poll, u8)> {
    let poll = prop_oneof![
        4 => Just(Poll::Arrives),
        1 => Just(Poll::CutBefore),
        1 => Just(Poll::CutWhileLent),
        2 => Just(Poll::Lost),
        1 => Just(Poll::Resumes),
    ];
    (
        poll,
        prop_oneof![6 => Just(0u8), 1 => 1u8..5, 1 => 250u8..=255],
    )
}

async fn on_a_bad_network(engine: EngineKind, polls: Vec<(Poll, u8)>) {
    const MESSAGES: u8 = 10;
    let (list, a) = with_messages(engine, MESSAGES).await;
    let mut highest = 0;
    let mut processed = Vec::new();
    let to_the_end = std::iter::repeat_n((Poll::Arrives, 0), 2 * usize::from(MESSAGES));
    for (poll, late) in polls.into_iter().chain(to_the_end) {
        if processed.len() == usize::from(MESSAGES) {
            break;
        }
        let ack = match late {
            // A list in Redis takes it that it has lost what it had given, and gives all that
            // it has under higher numbers.
            250.. if matches!(engine, EngineKind::Memory) => highest + u64::from(late),
            late => highest.saturating_sub(late.into()),
        };
        let mut waiting = wait_with(&list, a.id, acknowledging(ack));
        if matches!(poll, Poll::CutBefore) {
            let _ = list.try_now(&mut waiting).await;
            continue;
        }
        let delivery = list.within(2 * REPEAT_PAUSE, waiting).await.unwrap();
        let News::Message { body, .. } = delivery.news().clone() else {
            panic!("{delivery:?} is no message");
        };
        let number = delivery.number();
        if matches!(poll, Poll::CutWhileLent) {
            continue;
        }
        if matches!(poll, Poll::Resumes) {
            resume(&list, &a, "a").await;
        }
        delivery.done();
        list.settle().await;
        if matches!(poll, Poll::Arrives) && number > highest {
            highest = number;
            processed.push(body[0]);
        }
    }
    assert_eq!(processed, (1..=MESSAGES).collect::<Vec<_>>());
}

every_engine_in_any_case! {
    each_message_is_processed_once_and_in_order_whatever_happens_to_replies:
        on_a_bad_network(prop::collection::vec(poll(), 1..60)), 256 in memory, 16 in redis;
}
