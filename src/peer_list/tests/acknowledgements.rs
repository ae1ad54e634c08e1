//! Peers that poll and acknowledge what they got.

use super::*;

async fn wait_after(list: &TimeoutPeerList, id: PeerId, ack: u64) -> Delivery {
    list.wait(
        id,
        WaitOpts {
            acknowledged: Some(ack),
            limit: None,
        },
    )
    .await
    .unwrap()
}

/// Two peers that know of each other, of which the first was sent so many
/// messages.
async fn with_messages(count: u8) -> (TimeoutPeerList, PeerId, PeerToken) {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let b = sign_in(&list, "b").await;
    let a = list
        .add_peer(Some("a"), way(Dialect::Listed))
        .await
        .unwrap();
    for number in 1..=count {
        let body = Bytes::copy_from_slice(&[number]);
        list.send(b, a.id, body, SendOpts::default()).await.unwrap();
    }
    (list, a.id, a.token)
}

/// The number of the message that a wait is given, which is its body too.
fn number(delivery: &Delivery) -> u64 {
    let News::Message { body, .. } = delivery.news() else {
        panic!("{delivery:?} is no message");
    };
    assert_eq!(u64::from(body[0]), delivery.number());
    delivery.number()
}

#[tokio::test(start_paused = true)]
async fn a_message_comes_again_until_it_is_acknowledged() {
    let (list, a, _) = with_messages(2).await;
    for (ack, expected) in [(0, 1), (0, 1), (1, 2), (0, 2), (1, 2)] {
        let delivery = wait_after(&list, a, ack).await;
        assert_eq!(number(&delivery), expected);
        delivery.done();
    }
    let mut last = task::spawn(list.wait(
        a,
        WaitOpts {
            acknowledged: Some(2),
            limit: None,
        },
    ));
    assert_pending!(last.poll());
}

#[tokio::test(start_paused = true)]
async fn a_repeat_comes_a_second_later_and_something_new_at_once() {
    let (list, a, _) = with_messages(2).await;
    let start = Instant::now();
    wait_after(&list, a, 0).await.done();
    wait_after(&list, a, 1).await.done();
    assert_eq!(start.elapsed(), Duration::ZERO);
    wait_after(&list, a, 1).await.done();
    assert_eq!(start.elapsed(), Duration::from_secs(1));
    // It is put off no longer than the wait lasts.
    let limit = Duration::from_millis(100);
    let none = list
        .wait(
            a,
            WaitOpts {
                acknowledged: Some(1),
                limit: Some(limit),
            },
        )
        .await
        .unwrap();
    assert!(matches!(none.news(), News::Nothing(_)));
}

#[tokio::test(start_paused = true)]
async fn a_wait_whose_repeat_is_put_off_ends_at_once_when_its_peer_is_removed() {
    let (list, a, _) = with_messages(1).await;
    wait_after(&list, a, 0).await.done();
    let mut repeat = task::spawn(list.wait(
        a,
        WaitOpts {
            acknowledged: Some(0),
            limit: None,
        },
    ));
    assert_pending!(repeat.poll());
    list.remove_peer(a, Reason::SignedOut).await.unwrap();
    assert!(repeat.is_woken());
    let end = assert_ready!(repeat.poll()).unwrap();
    assert_eq!(*end.news(), News::Nothing("b,1,1\n".into()));
}

#[tokio::test(start_paused = true)]
async fn what_was_never_delivered_cannot_be_acknowledged() {
    let (list, a, _) = with_messages(2).await;
    for ack in [2, 7, u64::MAX] {
        let delivery = wait_after(&list, a, ack).await;
        assert_eq!(number(&delivery), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_does_not_acknowledge_takes_what_is_not_acknowledged_yet() {
    let (list, a, _) = with_messages(3).await;
    wait_after(&list, a, 0).await.done();
    wait_after(&list, a, 1).await.done();
    for expected in [2, 3] {
        let delivery = list.wait(a, WaitOpts::default()).await.unwrap();
        assert_eq!(number(&delivery), expected);
        delivery.done();
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_given_what_comes_after_its_own_acknowledgement() {
    let (list, a, _) = with_messages(2).await;
    let first = wait_after(&list, a, 0).await;
    // Begun while the first is on loan, by a client that never saw its reply.
    let mut second = task::spawn(list.wait(
        a,
        WaitOpts {
            acknowledged: Some(0),
            limit: None,
        },
    ));
    assert_pending!(second.poll());
    first.done();
    assert!(second.is_woken());
    assert_eq!(number(&assert_ready!(second.poll()).unwrap()), 1);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_polls_is_refused_more_when_its_mailbox_is_full_also_if_it_acknowledges() {
    let opts = HeartbeatOpts {
        max_pending_bytes: MESSAGE_OVERHEAD_BYTES,
        ..HeartbeatOpts::default()
    };
    let list = TimeoutPeerList::new(opts);
    let a = sign_in(&list, "a").await;
    say(&list, a, a, "").await;
    wait_after(&list, a, 0).await.done();
    let refused = list.send(a, a, Bytes::new(), SendOpts::PATIENT).await;
    assert_eq!(refused.unwrap_err(), Refusal::MailboxFull);
    let mut next = task::spawn(list.wait(
        a,
        WaitOpts {
            acknowledged: Some(1),
            limit: None,
        },
    ));
    assert_pending!(next.poll());
    say(&list, a, a, "").await;
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

proptest! {
    #[test]
    fn each_message_is_processed_once_and_in_order_whatever_happens_to_replies(
        polls in prop::collection::vec(poll(), 1..60),
    ) {
        const MESSAGES: u64 = 10;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (list, a, token) = with_messages(MESSAGES as u8).await;
            let mut processed = 0;
            let to_the_end = std::iter::repeat_n((Poll::Arrives, 0), 2 * MESSAGES as usize);
            for (poll, late) in polls.into_iter().chain(to_the_end) {
                if processed == MESSAGES {
                    break;
                }
                // Its own, an older one, or one of another mailbox.
                let ack = match late {
                    250.. => processed + u64::from(late),
                    late => processed.saturating_sub(late.into()),
                };
                if matches!(poll, Poll::CutBefore) {
                    let _ = task::spawn(list.wait(a, WaitOpts { acknowledged: Some(ack), limit: None })).poll();
                    continue;
                }
                let delivery = wait_after(&list, a, ack).await;
                let given = number(&delivery);
                assert!(given <= processed + 1, "{given} after {processed}");
                if matches!(poll, Poll::CutWhileLent) {
                    continue;
                }
                if matches!(poll, Poll::Resumes) {
                    let way = way(Dialect::Listed);
                    list.resume_peer(a, &token, None, way).await.unwrap();
                }
                delivery.done();
                if matches!(poll, Poll::Arrives) && given == processed + 1 {
                    processed = given;
                }
            }
            assert_eq!(processed, MESSAGES);
        });
    }
}
