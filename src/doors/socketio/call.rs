//! An event that a client sent, and the line in which events wait until the
//! task of their socket has time for them.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde::{Serialize, Serializer, ser::SerializeTuple};
use serde_json::value::RawValue;
use socketioxide::{
    SendError,
    adapter::LocalAdapter,
    extract::AckSender,
    handler::{FromMessageParts, Value},
    socket::Socket,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::peer_list::MESSAGE_OVERHEAD_BYTES;

/// An event of a client: its name and arguments as one JSON array, whatever
/// they are.
pub(super) struct Call {
    array: String,
    /// It has binary attachments. They stay behind: the other doors have no
    /// place for them.
    pub has_attachments: bool,
    pub ack: Option<Ack>,
}

impl Call {
    /// The number up to which our own client has all messages, if it says so.
    fn acknowledges(&self) -> Option<u64> {
        if !self.array.starts_with("[\"got\",") {
            return None;
        }
        let (_, arguments) = self.parts()?;
        serde_json::from_str(arguments.first()?.get()).ok()
    }

    /// The name and the arguments, each as it was sent. None if the first is
    /// no string.
    pub fn parts(&self) -> Option<(String, Vec<&RawValue>)> {
        let mut values: Vec<&RawValue> = serde_json::from_str(&self.array).ok()?;
        if values.is_empty() {
            return None;
        }
        let name = values.remove(0);
        Some((serde_json::from_str(name.get()).ok()?, values))
    }
}

impl FromMessageParts<LocalAdapter> for Call {
    type Error = Infallible;

    fn from_message_parts(
        socket: &Arc<Socket<LocalAdapter>>,
        value: &mut Value,
        ack: &Option<i64>,
    ) -> Result<Self, Infallible> {
        let (array, has_attachments) = match value {
            Value::Str(array, attachments) => {
                let any = attachments.as_ref().is_some_and(|all| !all.is_empty());
                (array.as_str().to_owned(), any)
            }
            Value::Bytes(_) => (String::new(), true),
        };
        let ack = ack.map(|id| Ack {
            socket: socket.clone(),
            id,
        });
        Ok(Self {
            array,
            has_attachments,
            ack,
        })
    }
}

/// The arguments of an event. The library spreads tuples, and takes anything
/// else for one argument.
#[derive(Clone, Copy)]
pub(super) struct Arguments<'a>(pub &'a [&'a RawValue]);

impl Serialize for Arguments<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(self.0.len())?;
        for argument in self.0 {
            tuple.serialize_element(argument)?;
        }
        tuple.end()
    }
}

/// The acknowledgement that a client asked for.
#[derive(Clone)]
pub(super) struct Ack {
    socket: Arc<Socket<LocalAdapter>>,
    id: i64,
}

impl Ack {
    /// Sends it. An error may pass.
    pub fn send(&self, arguments: Arguments<'_>) -> Result<(), SendError> {
        // The library's sender is used up even if there was no room.
        let mut unused = Value::Bytes(bytes::Bytes::new());
        let sender = AckSender::from_message_parts(&self.socket, &mut unused, &Some(self.id));
        match sender {
            Ok(sender) => sender.send(&arguments),
            Err(never) => match never {},
        }
    }
}

/// How a socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// Its client said so.
    Disconnected,
    /// Its connection was lost.
    Lost,
}

/// Where the events of a socket are put.
#[derive(Clone)]
pub(super) struct Inbox {
    calls: mpsc::UnboundedSender<Result<Call, Gone>>,
    waiting: Arc<AtomicUsize>,
    bound: usize,
    overflowed: CancellationToken,
    acknowledged: Arc<watch::Sender<u64>>,
}

/// Where its task takes them from.
pub(super) struct Calls {
    calls: mpsc::UnboundedReceiver<Result<Call, Gone>>,
    /// The cost of what waits, in bytes.
    waiting: Arc<AtomicUsize>,
    overflowed: CancellationToken,
    acknowledged: watch::Receiver<u64>,
}

/// A line of events that is bounded in bytes.
pub(super) fn calls(bound: usize) -> (Inbox, Calls) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let overflowed = CancellationToken::new();
    let (acknowledging, acknowledged) = watch::channel(0);
    let inbox = Inbox {
        calls: sender,
        waiting: waiting.clone(),
        bound,
        overflowed: overflowed.clone(),
        acknowledged: Arc::new(acknowledging),
    };
    let calls = Calls {
        calls: receiver,
        waiting,
        overflowed,
        acknowledged,
    };
    (inbox, calls)
}

fn cost(call: &Call) -> usize {
    call.array.len() + MESSAGE_OVERHEAD_BYTES
}

impl Inbox {
    /// Puts an event last in line. When that would be too long the socket is
    /// given up: nothing of what it sent may be passed over.
    ///
    /// What acknowledges stands in no line: what is obeyed before it may wait for
    /// the room that it makes.
    pub fn put(&self, call: Call) {
        if let Some(number) = call.acknowledges() {
            self.acknowledged.send_if_modified(|highest| {
                let rises = number > *highest;
                *highest = number.max(*highest);
                rises
            });
            return;
        }
        let cost = cost(&call);
        if self.overflowed.is_cancelled() {
            return;
        }
        if self.waiting.fetch_add(cost, Ordering::Relaxed) + cost > self.bound {
            self.overflowed.cancel();
        } else {
            // An error means that the task has ended.
            let _ = self.calls.send(Ok(call));
        }
    }

    /// The socket is gone, after all that it sent.
    pub fn close(&self, gone: Gone) {
        let _ = self.calls.send(Err(gone));
    }
}

impl Calls {
    /// The next event. An error when the socket is gone.
    pub async fn next(&mut self) -> Result<Call, Gone> {
        let call = self.calls.recv().await.unwrap_or(Err(Gone::Lost))?;
        self.waiting.fetch_sub(cost(&call), Ordering::Relaxed);
        Ok(call)
    }

    /// The highest number that the client has acknowledged.
    pub fn acknowledged(&self) -> watch::Receiver<u64> {
        self.acknowledged.clone()
    }

    /// Cancelled when the client sent more than there is room for.
    pub fn overflowed(&self) -> CancellationToken {
        self.overflowed.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(bytes: usize) -> Call {
        Call {
            array: "x".repeat(bytes),
            has_attachments: false,
            ack: None,
        }
    }

    #[tokio::test]
    async fn events_come_in_order_and_before_the_end() {
        let (inbox, mut calls) = calls(10_000);
        inbox.put(call(1));
        inbox.put(call(2));
        inbox.close(Gone::Disconnected);
        for bytes in [1, 2] {
            assert_eq!(calls.next().await.ok().unwrap().array.len(), bytes);
        }
        assert_eq!(calls.next().await.err(), Some(Gone::Disconnected));
        drop(inbox);
        assert_eq!(calls.next().await.err(), Some(Gone::Lost));
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_given_up_and_takes_no_more() {
        let cost = 100 + MESSAGE_OVERHEAD_BYTES;
        let (inbox, mut calls) = calls(2 * cost);
        let overflowed = calls.overflowed();
        inbox.put(call(100));
        inbox.put(call(100));
        calls.next().await.ok().unwrap();
        inbox.put(call(100));
        assert!(!overflowed.is_cancelled());
        inbox.put(call(100));
        assert!(overflowed.is_cancelled());
        // Nothing is passed over: what comes after is not taken, even if there
        // is room again.
        for _ in 0..2 {
            calls.next().await.ok().unwrap();
        }
        calls.waiting.store(0, Ordering::Relaxed);
        inbox.put(call(1));
        assert!(calls.calls.is_empty());
    }
}
