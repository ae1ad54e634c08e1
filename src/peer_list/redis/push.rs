//! What Redis pushes to this node, and what the node asks for after a push may have been
//! missed.

use std::sync::{Arc, atomic::Ordering};

use ::redis::{PushInfo, PushKind, Value};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{PATIENCE, node::Node, retry};
use crate::peer_list::{PeerId, Reason, Refusal};

/// Listens to pushes for as long as the node is used.
pub(super) fn start(node: &Arc<Node>, mut pushes: UnboundedReceiver<PushInfo>) {
    let node = Arc::downgrade(node);
    tokio::spawn(async move {
        while let Some(push) = pushes.recv().await {
            let Some(node) = node.upgrade() else { return };
            match push.kind {
                PushKind::Message => {
                    if let Some(Value::BulkString(text)) = push.data.get(1)
                        && let Some(push) = Push::read(&String::from_utf8_lossy(text))
                    {
                        hear(&node, push);
                    }
                }
                // The connection was lost in between: the node asks for what it may have
                // missed.
                PushKind::Subscribe if is_last(&push) => node.catch_up(),
                _ => {}
            }
        }
    });
}

/// Whether both channels are subscribed to.
fn is_last(push: &PushInfo) -> bool {
    matches!(push.data.get(1), Some(Value::Int(count)) if *count >= 2)
}

impl Node {
    /// Finds out what Redis could not push, or has lost.
    pub fn catch_up(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        tokio::spawn(retry::until_answered(move || {
            let node = weak.upgrade();
            async move {
                match node {
                    Some(node) => node.find_out().await,
                    None => Ok(()),
                }
            }
        }));
    }

    async fn find_out(self: &Arc<Self>) -> Result<(), Refusal> {
        // Redis may have lost changes, and may have given their versions to other
        // changes.
        let version = self.cached.lock().forget();
        self.sync(Some(PATIENCE)).await?;
        let current = self.cached.lock().roster.current();
        // Without any change the whole list is lost, which is logged elsewhere.
        if (1..version).contains(&current) {
            self.lost_changes();
        } else {
            self.forget_lost_changes();
        }
        self.sync_events(false, Some(PATIENCE)).await?;
        self.deny().await?;
        self.recheck();
        self.changed();
        Ok(())
    }
}

/// A push of Redis to a node.
#[derive(Debug, PartialEq, Eq)]
enum Push {
    /// The list has changed.
    Changed,
    /// An event has happened.
    Event,
    /// There may be news for this peer.
    Wake(PeerId),
    /// The wait of this peer ends: it has to poll again.
    EndWait(PeerId),
    /// The session with this number has taken the peer over.
    Replaced(PeerId, u64),
    /// The peer was removed, or its door should remove it.
    Removed(PeerId, Reason),
}

impl Push {
    /// None if it is of another version. The letters are those of `tell` and `tell_all`
    /// in the script.
    fn read(text: &str) -> Option<Self> {
        let (letter, rest) = text.split_at_checked(1)?;
        let mut words = rest.splitn(2, ' ');
        let id = words.next().and_then(PeerId::parse);
        let word = words.next().unwrap_or_default();
        Some(match letter {
            "v" => Self::Changed,
            "e" => Self::Event,
            "w" => Self::Wake(id?),
            "b" => Self::EndWait(id?),
            "x" => Self::Replaced(id?, word.parse().ok()?),
            "r" => Self::Removed(id?, Reason::read(word).unwrap_or(Reason::TimedOut)),
            _ => return None,
        })
    }
}

fn hear(node: &Arc<Node>, push: Push) {
    match push {
        Push::Changed => node.changed(),
        Push::Event => {
            if node.events_asked.is_next.swap(true, Ordering::AcqRel) {
                return;
            }
            let node = node.clone();
            tokio::spawn(async move {
                retry::until_answered(|| node.sync_events(false, None)).await;
            });
        }
        Push::Wake(id) => {
            for here in node.open_of(id) {
                here.news.notify_one();
            }
        }
        Push::EndWait(id) => {
            for here in node.open_of(id) {
                here.end_wait();
            }
        }
        Push::Replaced(id, session) => {
            for here in node.open_of(id) {
                here.replaced_by(session);
            }
        }
        Push::Removed(id, reason) => {
            for here in node.open_of(id) {
                here.set_removed(reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_tells_is_read_and_what_another_version_tells_is_passed_over() {
        let id = PeerId::new(7).unwrap();
        let read = [
            ("v", Some(Push::Changed)),
            ("e", Some(Push::Event)),
            ("w7", Some(Push::Wake(id))),
            ("b7", Some(Push::EndWait(id))),
            ("x7 12", Some(Push::Replaced(id, 12))),
            ("r7 kicked", Some(Push::Removed(id, Reason::Kicked))),
            ("r7 newer", Some(Push::Removed(id, Reason::TimedOut))),
            ("", None),
            ("w", None),
            ("wx", None),
            ("x7", None),
            ("?7", None),
            ("\u{e9}", None),
        ];
        for (text, push) in read {
            assert_eq!(Push::read(text), push, "{text}");
        }
    }
}
