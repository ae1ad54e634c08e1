//! When this process holds almost as much as it may: the peers that hold much and read
//! nothing are removed.

use std::{
    cmp::Reverse,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::sleep;
use tracing::warn;

use super::{
    MemoryEngine, Shared,
    peer::{Peer, PeerState},
    removal::Removal,
};
use crate::peer_list::{Reason, Refusal};

/// A peer holds much from here on, in bytes: more than an offer and its candidates.
const MUCH: usize = 16 * 1024;

/// A peer that has taken nothing for this long does not read. Clients poll again at once.
const READS_NOTHING: Duration = Duration::from_secs(5);

/// The pause between two looks at all peers.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts to look after the memory of a list. It ends when the list is dropped.
pub(super) fn start(shared: &Arc<Shared>) {
    let buffered = shared.buffered.clone();
    let shared = Arc::downgrade(shared);
    tokio::spawn(async move {
        loop {
            buffered.pressed().await;
            let Some(shared) = Weak::<Shared>::upgrade(&shared) else {
                return;
            };
            shared.evict();
            drop(shared);
            sleep(PAUSE).await;
        }
    });
}

impl Shared {
    /// Removes peers that read nothing, the largest first, until a quarter is about to be free:
    /// what a socket holds is free once its door has closed it.
    fn evict(self: &Arc<Self>) {
        let mut silent: Vec<(usize, Arc<Peer>)> = self
            .all_peers()
            .into_iter()
            .filter_map(|peer| {
                let held = held_unread(&peer.state.lock())?;
                Some((held, peer))
            })
            .collect();
        silent.sort_unstable_by_key(|(held, _)| Reverse(*held));
        let (mut peers, before) = (0, self.buffered.bytes());
        let mut left = self.buffered.excess();
        for (held, peer) in silent {
            if left == 0 {
                break;
            }
            if MemoryEngine::of(self, &peer).evict(&peer) {
                peers += 1;
                left = left.saturating_sub(held);
            }
        }
        if peers > 0 {
            warn!(
                peers,
                before,
                after = self.buffered.bytes(),
                limit = self.buffered.limit(),
                "peers that did not read were removed, because clients made the server hold almost \
                 WEBRTC_MAX_BUFFERED_BYTES"
            );
        }
    }
}

/// How much is held for a peer that does not read it, if that is much; in bytes.
fn held_unread(state: &PeerState) -> Option<usize> {
    let held = state.held();
    let is_unread =
        state.removed.is_none() && held >= MUCH && state.reads_nothing_for() >= READS_NOTHING;
    is_unread.then_some(held)
}

impl MemoryEngine {
    /// Removes a peer, if it still does not read. False if it stays.
    fn evict(&self, peer: &Peer) -> bool {
        if held_unread(&peer.state.lock()).is_none() {
            return false;
        }
        if self.give_up(peer) == Refusal::MailboxFull {
            // No door has it.
            let removal = Removal::Asked(Reason::NotReading);
            return self.remove_if(peer, |state| held_unread(state).map(|_| removal));
        }
        true
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The task that looks after its memory ends.
        self.buffered.press();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::{task::yield_now, time::advance};

    use super::*;
    use crate::peer_list::{
        Caller, Channels, Cost, Dialect, HeartbeatOpts, Identity, JoinOpts, MESSAGE_OVERHEAD_BYTES,
        Mail, News, PeerId, Peers, Presence, Proof, PublishOpts, SendOpts, SignInOpts, SocketOpts,
        Unlisted, WaitOpts, Watching,
    };

    const LIMIT: usize = 256 * 1024;
    const MESSAGE: usize = 8 * 1024 - MESSAGE_OVERHEAD_BYTES;

    fn list() -> MemoryEngine {
        MemoryEngine::new(HeartbeatOpts {
            max_buffered_bytes: LIMIT,
            timeout_period: Duration::from_secs(3600),
            ..HeartbeatOpts::default()
        })
    }

    async fn peer(list: &MemoryEngine) -> PeerId {
        let opts = SignInOpts {
            door: "test",
            dialect: Dialect::Silent,
            protected: false,
            has_socket: false,
            identity: Identity::default(),
        };
        list.add_peer(None, opts).await.unwrap().id
    }

    async fn send(list: &MemoryEngine, to: PeerId, bytes: usize) -> Result<(), Refusal> {
        let from = list.peer_ids()[0];
        let body = Bytes::from(vec![b'm'; bytes]);
        list.send(from, to, body, SendOpts::default()).await
    }

    /// Reads one message.
    async fn read(list: &MemoryEngine, id: PeerId) {
        let open = list.open_request(Caller {
            id,
            proof: Proof::Trusted,
            link: None,
            lingers: false,
        });
        let news = open.unwrap().wait(WaitOpts::default()).await;
        news.unwrap().done();
    }

    /// Lets the task that looks after the memory look again.
    async fn looked() {
        advance(PAUSE).await;
        yield_now().await;
    }

    async fn is_there(list: &MemoryEngine, id: PeerId) -> bool {
        list.peer_info(id).await.unwrap().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn when_little_is_left_the_largest_peers_that_read_nothing_are_removed_first() {
        let list = list();
        let (_sender, reads, small) = (peer(&list).await, peer(&list).await, peer(&list).await);
        let (large, larger) = (peer(&list).await, peer(&list).await);
        for (to, messages) in [(reads, 4), (small, 1), (large, 5), (larger, 6)] {
            for _ in 0..messages {
                send(&list, to, MESSAGE).await.unwrap();
            }
        }
        advance(READS_NOTHING).await;
        read(&list, reads).await;
        // Half is held, and nobody looks.
        looked().await;
        assert!(is_there(&list, larger).await);
        // From here on less than an eighth is left.
        for _ in 0..14 {
            send(&list, reads, MESSAGE).await.unwrap();
        }
        looked().await;
        assert!(!is_there(&list, larger).await);
        for (id, what) in [
            (reads, "it reads"),
            (small, "it holds little"),
            (large, "enough is free"),
        ] {
            assert!(is_there(&list, id).await, "{what}");
        }
        assert_eq!(list.shared.buffered.excess(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_peers_are_removed_than_have_to_be_although_a_socket_gives_back_late() {
        let list = list();
        let (_sender, deaf, poller) = (peer(&list).await, peer(&list).await, peer(&list).await);
        let socket = list.open_socket(deaf, SocketOpts::default()).await.unwrap();
        let outgoing = Arc::new(list.shared.buffered.hold());
        // Its door has it, and frees it when it has closed the socket.
        outgoing.add_anyway(Cost::own(LIMIT / 2));
        socket.holds(outgoing.clone());
        for _ in 0..4 {
            send(&list, poller, MESSAGE).await.unwrap();
        }
        advance(READS_NOTHING).await;
        let reader = peer(&list).await;
        for _ in 0..11 {
            send(&list, reader, MESSAGE).await.unwrap();
        }
        looked().await;
        let ended = tokio::time::timeout(PAUSE, socket.wait()).await.unwrap();
        assert_eq!(*ended.news(), News::Removed(Reason::NotReading));
        assert!(is_there(&list, poller).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_reads_slowly_is_not_removed() {
        let list = list();
        let (_sender, slow) = (peer(&list).await, peer(&list).await);
        let socket = list.open_socket(slow, SocketOpts::default()).await.unwrap();
        let mut refused = 0;
        for _ in 0..40 {
            refused += u32::from(send(&list, slow, MESSAGE).await.is_err());
        }
        assert!(refused > 0);
        for _ in 0..10 {
            advance(READS_NOTHING / 2).await;
            socket.reads();
            // One that finds no room makes the task look.
            send(&list, slow, MESSAGE).await.unwrap_err();
            looked().await;
        }
        assert!(is_there(&list, slow).await);
        advance(READS_NOTHING).await;
        send(&list, slow, MESSAGE).await.unwrap_err();
        looked().await;
        assert!(!is_there(&list, slow).await);
    }

    #[tokio::test(start_paused = true)]
    async fn when_nothing_is_left_messages_and_sign_ins_are_refused_until_something_is_read() {
        let list = list();
        let (_sender, id) = (peer(&list).await, peer(&list).await);
        let mut accepted = 0;
        while send(&list, id, MESSAGE).await.is_ok() {
            accepted += 1;
        }
        assert_eq!(
            accepted,
            LIMIT / (MESSAGE + MESSAGE_OVERHEAD_BYTES) - 1,
            "the list counts too"
        );
        assert_eq!(send(&list, id, MESSAGE).await, Err(Refusal::OutOfMemory));
        let last = list.shared.buffered.limit() - list.shared.buffered.bytes();
        send(&list, id, last - MESSAGE_OVERHEAD_BYTES)
            .await
            .unwrap();
        assert_eq!(list.has_space(0), Err(Refusal::OutOfMemory));
        // Heartbeats and waits are never refused, and nothing that was accepted is lost.
        list.refresh_peer_timeout(id).await.unwrap();
        for _ in 0..=accepted {
            read(&list, id).await;
            send(&list, id, 0).await.unwrap();
        }
        list.has_space(0).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_published_counts_once_however_many_are_to_hear_it() {
        let list = list();
        let identity = Identity::default();
        let mut ids = Vec::new();
        for _ in 0..20 {
            let added = list.add_unlisted(Unlisted {
                key: None,
                door: "test",
                channels: &["all"],
                identity: &identity,
            });
            ids.push(added.await.unwrap().id);
        }
        let before = list.shared.buffered.bytes();
        let body = Bytes::from(vec![b'm'; LIMIT / 4]);
        list.publish(ids[0], &["all"], body.clone(), PublishOpts::default())
            .await
            .unwrap();
        let counted = list.shared.buffered.bytes() - before;
        assert_eq!(
            counted,
            body.len() + (ids.len() - 1) * MESSAGE_OVERHEAD_BYTES
        );
        for _ in 0..2 {
            let _ = list
                .publish(ids[0], &["all"], body.clone(), PublishOpts::default())
                .await;
        }
        assert_eq!(
            list.publish(ids[0], &["all"], body, PublishOpts::default())
                .await,
            Err(Refusal::OutOfMemory)
        );
        for id in ids {
            list.remove_peer(id, Reason::SignedOut).await.unwrap();
        }
        assert_eq!(list.shared.buffered.bytes(), before);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_on_its_way_to_a_socket_counts_in_its_peers_share() {
        let list = MemoryEngine::new(HeartbeatOpts {
            max_pending_bytes: 2 * (MESSAGE + MESSAGE_OVERHEAD_BYTES),
            ..HeartbeatOpts::default()
        });
        let (_sender, id) = (peer(&list).await, peer(&list).await);
        let socket = list.open_socket(id, SocketOpts::default()).await.unwrap();
        let outgoing = Arc::new(list.shared.buffered.hold());
        outgoing.add_anyway(Cost::own(MESSAGE));
        socket.holds(outgoing.clone());
        send(&list, id, MESSAGE).await.unwrap();
        assert_eq!(send(&list, id, MESSAGE).await, Err(Refusal::MailboxFull));
        outgoing.clear();
        send(&list, id, MESSAGE).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_leaves_gives_back_all_that_was_held_for_it() {
        let list = list();
        let (_sender, id) = (peer(&list).await, peer(&list).await);
        let before = list.shared.buffered.bytes();
        send(&list, id, MESSAGE).await.unwrap();
        list.join(id, "channel", JoinOpts::default()).await.unwrap();
        list.watch_for(id, "name").await.unwrap();
        assert!(list.shared.buffered.bytes() > before + MESSAGE + 3 * MESSAGE_OVERHEAD_BYTES);
        list.remove_peer(id, Reason::SignedOut).await.unwrap();
        assert!(list.shared.buffered.bytes() <= before);
    }
}
