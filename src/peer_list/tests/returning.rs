//! Peers that come back as themselves, and what those hear who watch them.

use super::*;

const LISTED: WayIn = WayIn {
    door: "http",
    dialect: Dialect::Listed,
    protected: false,
};

const SOCKET: WayIn = WayIn {
    door: "websocket",
    dialect: Dialect::Silent,
    protected: false,
};

const GRACE: Duration = Duration::from_secs(5);

async fn added(list: &TimeoutPeerList, name: &str) -> SignedIn {
    list.add_peer(Some(name), LISTED).await.unwrap()
}

async fn resume(list: &TimeoutPeerList, peer: &SignedIn, name: &str) -> SignedIn {
    let resumed = list.resume_peer(peer.id, &peer.token, Some(name), LISTED);
    resumed.await.unwrap()
}

/// What was told since, as [`told`].
async fn all_told(events: &mut PeerEvents) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let mut next = task::spawn(events.next());
        match next.poll() {
            std::task::Poll::Ready(event) => all.push(told(&event.unwrap().1)),
            std::task::Poll::Pending => return all,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_comes_back_under_its_id_with_its_line_first_and_its_mailbox() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = added(&list, "a").await;
    let b = added(&list, "b").await;
    list.send(b.id, a.id, "hi".into(), SendOpts::default())
        .await
        .unwrap();
    let again = resume(&list, &a, "a").await;
    assert_eq!(again.id, a.id);
    assert_eq!(text(&again.list), "a,1,1\nb,2,1\n");
    assert_eq!(take(&list, a.id).await, message(b.id, "hi"));
    assert_pending!(wait(&list, a.id).poll());
    assert_eq!(list.peer_ids(), [a.id, b.id]);
    assert_eq!(list.format(), "b,2,1\na,1,1\n");
}

#[tokio::test(start_paused = true)]
async fn the_others_are_told_of_a_return_only_if_the_name_is_another() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = added(&list, "a").await;
    let b = added(&list, "b").await;
    let mut waiting = wait(&list, b.id);
    assert_pending!(waiting.poll());
    resume(&list, &a, "a").await;
    assert_pending!(waiting.poll());
    let again = resume(&list, &a, "a,2").await;
    assert_eq!(text(&again.list), "a_2,1,1\nb,2,1\n");
    let told = assert_ready!(waiting.poll()).unwrap();
    assert_eq!(*told.news(), status("a_2,1,1\nb,2,1\n"));
    told.done();
    // And what it sends comes after that news.
    list.send(a.id, b.id, "hi".into(), SendOpts::default())
        .await
        .unwrap();
    assert_eq!(take(&list, b.id).await, message(a.id, "hi"));
}

#[tokio::test(start_paused = true)]
async fn a_wait_from_before_is_given_nothing_and_ends_in_its_own_time() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = added(&list, "a").await;
    let limit = Some(Duration::from_secs(20));
    let mut before = task::spawn(list.wait(
        a.id,
        WaitOpts {
            limit,
            ..WaitOpts::default()
        },
    ));
    assert_pending!(before.poll());
    resume(&list, &a, "a").await;
    list.send(a.id, a.id, "hi".into(), SendOpts::default())
        .await
        .unwrap();
    assert_pending!(before.poll());
    assert_eq!(take(&list, a.id).await, message(a.id, "hi"));
    assert_pending!(before.poll());
    pass(Duration::from_secs(20)).await;
    let end = assert_ready!(before.poll()).unwrap();
    assert!(matches!(end.news(), News::Nothing(_)));
}

#[tokio::test(start_paused = true)]
async fn what_was_lent_to_a_connection_before_is_given_to_who_came_back() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = added(&list, "a").await;
    list.send(a.id, a.id, "hi".into(), SendOpts::default())
        .await
        .unwrap();
    let lent = list.wait(a.id, WaitOpts::default()).await.unwrap();
    resume(&list, &a, "a").await;
    let given = list.wait(a.id, WaitOpts::default()).await.unwrap();
    assert_eq!(*given.news(), message(a.id, "hi"));
    lent.done();
    assert_pending!(wait(&list, a.id).poll());
    given.done();
    assert_pending!(wait(&list, a.id).poll());
}

#[tokio::test(start_paused = true)]
async fn nobody_comes_back_with_a_wrong_token_or_after_removal() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = added(&list, "a").await;
    let b = added(&list, "b").await;
    let wrong = list.resume_peer(a.id, &b.token, None, LISTED).await;
    assert_eq!(wrong.unwrap_err(), Refusal::WrongToken);
    assert_eq!(
        list.check_token(a.id, Some(&b.token)).await,
        Err(Refusal::WrongToken)
    );
    assert_eq!(list.check_token(a.id, Some(&a.token)).await, Ok(()));
    list.remove_peer(a.id, Reason::SignedOut).await.unwrap();
    let gone = list.resume_peer(a.id, &a.token, None, LISTED).await;
    assert_eq!(gone.unwrap_err(), Refusal::UnknownPeer);
}

#[tokio::test(start_paused = true)]
async fn a_poll_takes_a_peer_over_from_its_socket_and_the_other_way_round() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = list.add_peer(Some("a"), SOCKET).await.unwrap();
    let socket = list.open_socket(a.id, false).await.unwrap();
    assert!(
        list.wait(a.id, WaitOpts::default()).await.is_err(),
        "heard by its socket"
    );
    let mut ended = task::spawn(socket.ended());
    assert_pending!(ended.poll());
    resume(&list, &a, "a").await;
    assert_ready!(ended.poll());
    drop(ended);
    assert_eq!(*socket.wait().await.news(), News::Replaced);
    let mut poll = wait(&list, a.id);
    assert_pending!(poll.poll());
    // The end of the old socket is nothing to the peer.
    socket.leave(Reason::Closed).await;
    list.send(a.id, a.id, "hi".into(), SendOpts::default())
        .await
        .unwrap();
    let given = assert_ready!(poll.poll()).unwrap();
    assert_eq!(*given.news(), message(a.id, "hi"));
    given.done();
    let back = list.resume_peer(a.id, &a.token, None, SOCKET).await;
    assert_eq!(back.unwrap().id, a.id);
    let socket = list.open_socket(a.id, false).await.unwrap();
    assert!(list.wait(a.id, WaitOpts::default()).await.is_err());
    socket.leave(Reason::Closed).await;
    assert!(list.peer_ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_replaced_socket_that_waits_again_does_not_come_before_the_poll() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = list.add_peer(Some("a"), SOCKET).await.unwrap();
    let socket = list.open_socket(a.id, false).await.unwrap();
    resume(&list, &a, "a").await;
    let mut poll = wait(&list, a.id);
    assert_pending!(poll.poll());
    assert_eq!(*socket.wait().await.news(), News::Replaced);
    list.send(a.id, a.id, "hi".into(), SendOpts::default())
        .await
        .unwrap();
    assert!(poll.is_woken());
    assert_ready!(poll.poll()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_can_come_back_stays_until_it_is_stale_when_its_socket_closes() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = list.add_peer(Some("a"), SOCKET).await.unwrap();
    let mut events = list.subscribe(None);
    let socket = list.open_socket(a.id, true).await.unwrap();
    socket.leave(Reason::Closed).await;
    assert_eq!(list.format(), "a,1,0\n");
    pass(Duration::from_secs(29)).await;
    assert_eq!(list.peer_ids(), [a.id]);
    pass(Duration::from_secs(1)).await;
    assert_eq!(all_told(&mut events).await, ["- 1 timed_out"]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_leaves_with_grace_stays_if_it_shows_before_that_it_is_there() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let grace = Duration::from_secs(5);
    let mut left = Vec::new();
    for returns in 0..4 {
        let a = added(&list, "a").await;
        list.sign_out_later(a.id, grace).await.unwrap();
        pass(Duration::from_secs(4)).await;
        match returns {
            0 => drop(resume(&list, &a, "a").await),
            1 => list.refresh_peer_timeout(a.id).await.unwrap(),
            2 => drop(
                list.wait(
                    a.id,
                    WaitOpts {
                        limit: Some(Duration::from_secs(1)),
                        ..WaitOpts::default()
                    },
                )
                .await,
            ),
            _ => {}
        }
        pass(Duration::from_secs(2)).await;
        left.push(!list.peer_ids().contains(&a.id));
    }
    assert_eq!(left, [false, false, false, true]);
}

#[tokio::test(start_paused = true)]
async fn of_two_farewells_the_sooner_counts() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = added(&list, "a").await;
    list.sign_out_later(a.id, Duration::from_secs(9))
        .await
        .unwrap();
    list.sign_out_later(a.id, Duration::from_secs(3))
        .await
        .unwrap();
    list.sign_out_later(a.id, Duration::from_secs(9))
        .await
        .unwrap();
    pass(Duration::from_secs(3)).await;
    assert!(list.peer_ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_sent_again_with_its_number_is_delivered_once() {
    let opts = HeartbeatOpts {
        max_pending_bytes: MESSAGE_OVERHEAD_BYTES + 1,
        ..HeartbeatOpts::default()
    };
    let list = TimeoutPeerList::new(opts);
    let a = added(&list, "a").await.id;
    let send = async |body: &'static str, number| {
        list.send(a, a, body.into(), SendOpts::numbered(number))
            .await
    };
    assert_eq!(send("1", 1).await, Ok(()));
    // What was refused was not sent.
    assert_eq!(send("2", 2).await, Err(Refusal::MailboxFull));
    assert_eq!(send("1", 1).await, Ok(()));
    // Whether this was sent nobody knows.
    assert_eq!(send("0", 0).await, Err(Refusal::OutOfOrder));
    assert_eq!(take(&list, a).await, message(a, "1"));
    for _ in 0..2 {
        assert_eq!(send("2", 2).await, Ok(()));
    }
    assert_eq!(take(&list, a).await, message(a, "2"));
    assert_eq!(send("2", 2).await, Ok(()));
    assert_pending!(wait(&list, a).poll());
}

#[tokio::test(start_paused = true)]
async fn a_page_that_polls_when_the_farewell_of_the_one_before_it_comes_stays() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = added(&list, "a").await.id;
    let mut polls = wait(&list, a);
    assert_pending!(polls.poll());
    list.sign_out_later(a, GRACE).await.unwrap();
    // It is asked to show that it is there.
    let end = assert_ready!(polls.poll()).unwrap();
    assert_eq!(*end.news(), News::Nothing("a,1,1\n".into()));
    let mut polls = wait(&list, a);
    assert_pending!(polls.poll());
    pass(2 * GRACE).await;
    assert_pending!(polls.poll());
    assert_eq!(list.peer_ids(), [a]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_gone_when_its_grace_is_over_whatever_of_it_is_still_open() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    // A frozen page, whose poll stays open.
    let a = added(&list, "a").await.id;
    let mut frozen = wait(&list, a);
    assert_pending!(frozen.poll());
    list.sign_out_later(a, GRACE).await.unwrap();
    pass(GRACE).await;
    assert!(list.peer_ids().is_empty());
    drop(frozen);
    // One whose last poll comes after the farewell, and whose connection is then
    // closed.
    let a = added(&list, "a").await.id;
    list.sign_out_later(a, GRACE).await.unwrap();
    let mut late = wait(&list, a);
    assert_pending!(late.poll());
    drop(late);
    pass(GRACE).await;
    assert!(list.peer_ids().is_empty());
    // One whose last poll comes after the farewell, and whose connection stays.
    let a = added(&list, "a").await.id;
    list.sign_out_later(a, GRACE).await.unwrap();
    let mut late = wait(&list, a);
    assert_pending!(late.poll());
    pass(GRACE).await;
    assert_ready!(late.poll()).unwrap();
    assert_eq!(list.peer_ids(), [a]);
    pass(Duration::from_secs(2)).await;
    assert!(list.peer_ids().is_empty());
    // One whose last heartbeat comes after the farewell.
    let a = added(&list, "a").await.id;
    list.sign_out_later(a, GRACE).await.unwrap();
    list.refresh_peer_timeout(a).await.unwrap();
    pass(GRACE).await;
    assert!(list.peer_ids().is_empty());
    // One that polls once more because its wait was answered, before its connection is
    // closed.
    let a = added(&list, "a").await.id;
    let mut polls = wait(&list, a);
    assert_pending!(polls.poll());
    list.sign_out_later(a, GRACE).await.unwrap();
    assert_ready!(polls.poll()).unwrap();
    let mut late = wait(&list, a);
    assert_pending!(late.poll());
    drop(late);
    pass(GRACE).await;
    assert!(list.peer_ids().is_empty());
    // And a page that lives, whose poll came late: it polls again.
    let a = added(&list, "a").await.id;
    list.sign_out_later(a, GRACE).await.unwrap();
    let mut polls = wait(&list, a);
    assert_pending!(polls.poll());
    pass(GRACE).await;
    assert_ready!(polls.poll()).unwrap();
    let mut polls = wait(&list, a);
    assert_pending!(polls.poll());
    pass(2 * GRACE).await;
    assert_eq!(list.peer_ids(), [a]);
}

#[tokio::test(start_paused = true)]
async fn a_last_poll_that_came_late_and_was_answered_keeps_nobody() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = added(&list, "a").await.id;
    say(&list, a, a, "1").await;
    list.sign_out_later(a, GRACE).await.unwrap();
    assert_eq!(take(&list, a).await, message(a, "1"));
    pass(GRACE).await;
    assert!(list.peer_ids().is_empty());
    // A page that lives polls again.
    let a = added(&list, "a").await.id;
    say(&list, a, a, "1").await;
    list.sign_out_later(a, GRACE).await.unwrap();
    assert_eq!(take(&list, a).await, message(a, "1"));
    let mut polls = wait(&list, a);
    assert_pending!(polls.poll());
    pass(2 * GRACE).await;
    assert_eq!(list.peer_ids(), [a]);
}

#[tokio::test(start_paused = true)]
async fn an_open_socket_does_not_keep_a_peer_that_signs_out_later() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = added(&list, "a").await.id;
    let socket = list.open_socket(a, true).await.unwrap();
    let mut news = task::spawn(socket.wait());
    assert_pending!(news.poll());
    list.sign_out_later(a, GRACE).await.unwrap();
    assert_pending!(news.poll());
    pass(GRACE).await;
    assert!(list.peer_ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_grace_in_which_the_process_stood_still_begins_again() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = added(&list, "a").await.id;
    list.sign_out_later(a, GRACE).await.unwrap();
    pass(Duration::ZERO).await;
    tokio::time::advance(3 * GRACE).await;
    pass(Duration::ZERO).await;
    assert_eq!(list.peer_ids(), [a]);
    pass(GRACE).await;
    assert!(list.peer_ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_collected_by_hand_alone_does_not_stand_still() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    list.cancel_gc();
    let a = added(&list, "a").await.id;
    pass(Duration::from_secs(60)).await;
    assert_eq!(list.purge().await.unwrap(), [a]);
}

/// How a request proves that it may act as its peer.
fn request(
    list: &TimeoutPeerList,
    id: PeerId,
    token: Option<&PeerToken>,
) -> Result<Box<dyn OpenRequest>, Refusal> {
    list.open_request(Caller {
        proof: token.copied().into(),
        ..caller(id, None)
    })
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_has_shown_its_token_is_protected_from_then_on() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = added(&list, "a").await;
    assert!(request(&list, a.id, None).is_ok());
    assert!(request(&list, a.id, Some(&a.token)).is_ok());
    assert_eq!(
        request(&list, a.id, None).unwrap_err(),
        Refusal::MissingToken
    );
    assert_eq!(
        list.check_token(a.id, None).await,
        Err(Refusal::MissingToken)
    );
    assert_eq!(list.check_token(a.id, Some(&a.token)).await, Ok(()));
    // One that came back has shown it too.
    let b = added(&list, "b").await;
    resume(&list, &b, "b").await;
    assert_eq!(
        request(&list, b.id, None).unwrap_err(),
        Refusal::MissingToken
    );
    // And one that asked for it at its sign-in.
    let way = WayIn {
        protected: true,
        ..LISTED
    };
    let c = list.add_peer(Some("c"), way).await.unwrap();
    assert_eq!(
        request(&list, c.id, None).unwrap_err(),
        Refusal::MissingToken
    );
    assert!(request(&list, c.id, Some(&c.token)).is_ok());
    // Nobody acts by a request for a peer whose socket is open, nor for one that may
    // open one again.
    let d = list.add_peer(Some("d"), SOCKET).await.unwrap();
    let socket = list.open_socket(d.id, false).await.unwrap();
    assert_eq!(
        list.check_token(d.id, None).await,
        Err(Refusal::MissingToken)
    );
    drop(socket);
    assert_eq!(list.check_token(d.id, None).await, Ok(()));
    drop(list.open_socket(d.id, true).await.unwrap());
    assert_eq!(
        list.check_token(d.id, None).await,
        Err(Refusal::MissingToken)
    );
}

#[tokio::test(start_paused = true)]
async fn a_number_that_somebody_forged_does_not_lock_a_peer_out() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = added(&list, "a").await;
    let forged = request(&list, a.id, None).unwrap();
    forged
        .send(a.id, "x".into(), SendOpts::numbered(u64::MAX))
        .await
        .unwrap();
    let own = request(&list, a.id, Some(&a.token)).unwrap();
    assert_eq!(
        own.send(a.id, "1".into(), SendOpts::numbered(1)).await,
        Ok(())
    );
    assert_eq!(take(&list, a.id).await, message(a.id, "x"));
    assert_eq!(take(&list, a.id).await, message(a.id, "1"));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sent_heartbeats_and_whose_socket_closes_has_another_timeout() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = added(&list, "a").await.id;
    list.refresh_peer_timeout(a).await.unwrap();
    let socket = list.open_socket(a, true).await.unwrap();
    pass(Duration::from_secs(100)).await;
    socket.leave(Reason::Closed).await;
    assert!(list.purge().await.unwrap().is_empty());
    pass(Duration::from_secs(29)).await;
    assert_eq!(list.peer_ids(), [a]);
    pass(Duration::from_secs(20)).await;
    assert!(list.peer_ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_socket_takes_off_what_it_is_given_also_if_its_peer_acknowledged_before() {
    let opts = HeartbeatOpts {
        max_pending_bytes: 2 * MESSAGE_OVERHEAD_BYTES,
        ..HeartbeatOpts::default()
    };
    let list = TimeoutPeerList::new(opts);
    let a = added(&list, "a").await.id;
    let mut poll = task::spawn(list.wait(
        a,
        WaitOpts {
            acknowledged: Some(0),
            limit: Some(Duration::ZERO),
        },
    ));
    assert_ready!(poll.poll()).unwrap();
    drop(poll);
    let socket = list.open_socket(a, true).await.unwrap();
    for _ in 0..10 {
        list.send(a, a, Bytes::new(), SendOpts::default())
            .await
            .unwrap();
        socket.wait().await.done();
    }
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_a_socket_replaced_ends_in_the_form_that_its_client_knows() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = added(&list, "a").await;
    let mut poll = task::spawn(list.wait(
        a.id,
        WaitOpts {
            limit: Some(Duration::from_secs(1)),
            ..WaitOpts::default()
        },
    ));
    assert_pending!(poll.poll());
    let way = WayIn {
        door: "websocket",
        dialect: Dialect::Silent,
        protected: false,
    };
    list.resume_peer(a.id, &a.token, None, way).await.unwrap();
    pass(Duration::from_secs(1)).await;
    let end = assert_ready!(poll.poll()).unwrap();
    assert_eq!(*end.news(), News::Nothing("a,1,1\n".into()));
}

#[tokio::test(start_paused = true)]
async fn when_the_server_stops_every_peer_is_told_of_as_removed() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    added(&list, "a").await;
    added(&list, "b").await;
    let mut events = list.subscribe(None);
    list.stop().await;
    assert_eq!(
        all_told(&mut events).await,
        ["- 2 shutdown", "- 1 shutdown"]
    );
}

/// What `ss-heartbeat-responder` tells its server, as the events here: a
/// session is a peer, `start` a sign-in with the token it has, `stop` a
/// sign-out.
mod sessions {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);
    const INTERVAL: Duration = Duration::from_secs(15);

    enum Step {
        Start,
        Stop,
        Beat,
        Purge,
        Pass(Duration),
    }
    use Step::*;

    async fn told_after(steps: &[Step]) -> Vec<String> {
        let list = TimeoutPeerList::new(HeartbeatOpts {
            timeout_period: TIMEOUT,
            gc_interval: INTERVAL,
            ..HeartbeatOpts::default()
        });
        let mut events = list.subscribe(None);
        let mut peer: Option<SignedIn> = None;
        for step in steps {
            match (step, &peer) {
                (Start, None) => peer = Some(added(&list, "a").await),
                (Start, Some(known)) => drop(resume(&list, known, "a").await),
                (Stop, Some(known)) => {
                    list.remove_peer(known.id, Reason::SignedOut).await.unwrap();
                }
                (Beat, Some(known)) => list.refresh_peer_timeout(known.id).await.unwrap(),
                (Purge, _) => drop(list.purge().await.unwrap()),
                (Pass(time), _) => pass(*time).await,
                (Stop | Beat, None) => unreachable!("nobody was started"),
            }
        }
        all_told(&mut events).await
    }

    macro_rules! sessions {
        ($($name:ident: $steps:expr => $told:expr;)*) => {$(
            #[tokio::test(start_paused = true)]
            async fn $name() {
                let told: &[&str] = &$told;
                assert_eq!(told_after(&$steps).await, told);
            }
        )*};
    }

    const fn s(seconds: u64) -> Step {
        Pass(Duration::from_secs(seconds))
    }

    sessions! {
        to_start_twice_is_to_connect_and_to_reconnect: [Start, Start] => ["+ 1", "= 1"];
        to_stop_is_a_disconnect_at_once: [Start, Stop] => ["+ 1", "- 1 signed_out"];
        to_stop_twice_is_one_disconnect: [Start, Stop, Stop] => ["+ 1", "- 1 signed_out"];
        before_the_timeout_silence_is_nothing: [Start, Beat, s(32)] => ["+ 1"];
        silence_is_one_disconnect_an_interval_later_at_most:
            [Start, Beat, s(45), s(60)] => ["+ 1", "- 1 timed_out"];
        who_is_stale_and_not_yet_collected_is_still_connected: [Start, Beat, s(44)] => ["+ 1"];
        who_is_stale_and_not_yet_collected_comes_back:
            [Start, Beat, s(44), Start, Purge, s(30)] => ["+ 1", "= 1"];
        a_purge_brings_the_disconnect_forward:
            [Start, Beat, s(34), Purge, s(60)] => ["+ 1", "- 1 timed_out"];
        a_purge_leaves_who_is_not_stale: [Start, Beat, s(10), Purge] => ["+ 1"];
        a_beat_keeps: [Start, Beat, s(25), Beat, s(25), Beat, s(25)] => ["+ 1"];
    }
}
