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
use tokio::sync::mpsc;

use crate::peer_list::MESSAGE_OVERHEAD_BYTES;

/// An event of a client: its name and arguments as one JSON array, whatever
/// they are.
pub(super) struct Call {
    array: String,
    pub ack: Option<Ack>,
}

impl Call {
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
        let array = match value {
            // Binary attachments stay behind: the other doors have no place
            // for them, and clients of these protocols send none.
            Value::Str(array, _) => array.as_str().to_owned(),
            Value::Bytes(_) => String::new(),
        };
        let ack = ack.map(|id| Ack {
            socket: socket.clone(),
            id,
        });
        Ok(Self { array, ack })
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
    bytes: Arc<AtomicUsize>,
    bound: usize,
}

/// Where its task takes them from.
pub(super) struct Calls {
    calls: mpsc::UnboundedReceiver<Result<Call, Gone>>,
    bytes: Arc<AtomicUsize>,
}

/// A line of events that is bounded in bytes as a mailbox is.
pub(super) fn calls(bound: usize) -> (Inbox, Calls) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let bytes = Arc::new(AtomicUsize::new(0));
    let inbox = Inbox {
        calls: sender,
        bytes: bytes.clone(),
        bound,
    };
    let calls = Calls {
        calls: receiver,
        bytes,
    };
    (inbox, calls)
}

fn cost(call: &Call) -> usize {
    call.array.len() + MESSAGE_OVERHEAD_BYTES
}

impl Inbox {
    /// Puts an event last in line. A client that sends faster than it can be
    /// served is disconnected: nothing of what it sent may be passed over.
    pub fn put(&self, call: Call) {
        let cost = cost(&call);
        if self.bytes.fetch_add(cost, Ordering::Relaxed) + cost > self.bound {
            self.close(Gone::Disconnected);
        } else {
            // An error means that the task has ended.
            let _ = self.calls.send(Ok(call));
        }
    }

    /// The socket is gone.
    pub fn close(&self, gone: Gone) {
        let _ = self.calls.send(Err(gone));
    }
}

impl Calls {
    /// The next event. An error when the socket is gone.
    pub async fn next(&mut self) -> Result<Call, Gone> {
        let call = self.calls.recv().await.unwrap_or(Err(Gone::Lost))?;
        self.bytes.fetch_sub(cost(&call), Ordering::Relaxed);
        Ok(call)
    }
}
