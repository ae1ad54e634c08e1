//! Calls that wait until Redis has answered others, and then go to it together.
//!
//! When the list changes, each peer that waits causes calls at the same moment. One command
//! that carries out many of them costs Redis and the node less than as many commands.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use redis::{RedisError, RedisResult, Value};
use tokio::sync::oneshot;

use super::{
    connection::{Connection, whole},
    library::{Function, Library, goes_alone},
    retry::late,
    verbs::{Wanted, Words},
};

/// At most this many calls go together, so that Redis is not busy with one command for long.
const TOGETHER: usize = 64;

/// Calls with more than this many bytes between them do not go together. The script ends a
/// command when it has moved as much to mailboxes, or from them.
const TOGETHER_BYTES: usize = 64 * 1024;

/// The code of the script's answer to a call that it has not begun, because those before it took
/// enough time.
const NOT_BEGUN: &str = "TURN";

/// At most this many commands of a queue are on their way, so that Redis always has one to
/// begin with when it has carried out another.
const COMMANDS: usize = 2;

/// Calls to one shard that go through one function.
pub(super) struct CallQueue {
    library: Arc<Library>,
    function: Function,
    /// What all keys of the shard begin with.
    prefix: String,
    node: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// How many tasks send calls.
    sending: usize,
}

struct Waiting {
    call: QueuedCall,
    answer: oneshot::Sender<RedisResult<Value>>,
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.call.args.iter().map(Vec::len).sum()
    }

    /// Whether its caller has left.
    fn is_left(&self) -> bool {
        self.answer.is_closed()
    }
}

/// A verb, the room as the script names it, and the arguments.
struct QueuedCall {
    verb: &'static str,
    room: String,
    args: Vec<Vec<u8>>,
    is_wanted: Option<Wanted>,
}

impl CallQueue {
    pub fn new(library: &Arc<Library>, function: Function, prefix: &str, node: &str) -> Arc<Self> {
        Arc::new(Self {
            library: library.clone(),
            function,
            prefix: prefix.to_owned(),
            node: node.to_owned(),
            state: Mutex::default(),
        })
    }

    /// Asks in turn. If this is dropped before its turn, nothing was asked.
    pub async fn ask(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        room: &str,
        words: &Words,
        until: Option<u64>,
    ) -> RedisResult<Value> {
        let (answer, answered) = oneshot::channel();
        let until = until.map(|until| until.to_string().into_bytes());
        let call = QueuedCall {
            verb: words.verb,
            is_wanted: words.is_wanted.clone(),
            room: room.to_owned(),
            args: until
                .into_iter()
                .chain(words.args.iter().cloned())
                .collect(),
        };
        {
            let mut state = self.state.lock();
            // While Redis hangs, what nobody waits for any more is not kept.
            while state.waiting.front().is_some_and(Waiting::is_left) {
                state.waiting.pop_front();
            }
            state.waiting.push_back(Waiting { call, answer });
            if state.sending < COMMANDS {
                state.sending += 1;
                let (queue, connection) = (self.clone(), connection.clone());
                tokio::spawn(async move { queue.send(&connection).await });
            }
        }
        answered.await.unwrap_or_else(|_| Err(late()))
    }

    /// Sends calls until none waits.
    async fn send(&self, connection: &Connection) {
        while let Some(calls) = self.take() {
            self.send_together(connection, calls).await;
        }
    }

    /// The next calls whose callers still wait. None: there are none, and the task that asks
    /// has to end.
    fn take(&self) -> Option<Vec<Waiting>> {
        let mut state = self.state.lock();
        let mut next = Vec::new();
        let mut bytes = 0;
        while next.len() < TOGETHER
            && let Some(waiting) = state.waiting.pop_front()
        {
            if waiting.is_left() {
                continue;
            }
            let goes_alone = goes_alone(waiting.call.verb);
            bytes += waiting.bytes();
            if (goes_alone || bytes > TOGETHER_BYTES) && !next.is_empty() {
                state.waiting.push_front(waiting);
                break;
            }
            match &waiting.call.is_wanted {
                Some(is_wanted) if !is_wanted() => {
                    let _ = waiting.answer.send(Ok(Value::Array(Vec::new())));
                }
                _ => next.push(waiting),
            }
            if goes_alone {
                break;
            }
        }
        if next.is_empty() {
            state.sending -= 1;
            return None;
        }
        Some(next)
    }

    async fn send_together(&self, connection: &Connection, calls: Vec<Waiting>) {
        let mut command = self.library.call_through(self.function, &self.prefix);
        let is_alone = calls.len() == 1;
        if !is_alone {
            command.arg("all").arg(&self.node).arg("");
        }
        for Waiting { call, .. } in &calls {
            let QueuedCall {
                verb, room, args, ..
            } = call;
            match is_alone {
                true => command.arg(verb).arg(&self.node).arg(room),
                false => command.arg(verb).arg(room).arg(args.len()),
            };
            command.arg(args);
        }
        let answer = connection.ask(&command).await;
        let answers = match answer {
            _ if is_alone => vec![answer],
            Ok(Value::Array(answers)) if answers.len() == calls.len() => {
                answers.into_iter().map(whole).collect()
            }
            Ok(_) => vec![Err(unexpected()); calls.len()],
            Err(error) => vec![Err(error); calls.len()],
        };
        let mut not_begun = Vec::new();
        for (waiting, answer) in calls.into_iter().zip(answers) {
            match answer {
                Err(error) if error.code() == Some(NOT_BEGUN) => not_begun.push(waiting),
                // Its caller may have left.
                answer => drop(waiting.answer.send(answer)),
            }
        }
        let mut state = self.state.lock();
        for waiting in not_begun.into_iter().rev() {
            state.waiting.push_front(waiting);
        }
    }
}

fn unexpected() -> RedisError {
    (
        redis::ErrorKind::UnexpectedReturnType,
        "not an answer to each call",
    )
        .into()
}
