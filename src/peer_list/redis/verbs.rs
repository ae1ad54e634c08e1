//! The verbs of the script, each as a function with named arguments. A test holds names
//! and arguments against the script.

use std::{marker::PhantomData, sync::Arc};

use bytes::Bytes;

use super::{
    answers::{
        Anything, BegunWait, CameIn, Cards, ClaimedHere, ClosedSocket, Count, Counted, EndedWait,
        EventLines, Kept, Left, Libraries, Life, More, Next, OpenedSocket, Owed, OwedInChannel,
        OwedToHolder, Pushed, Readiness, RemovedSome, SentLast, SignedInAs, SomeRooms, Space,
        SpaceAfterAll, Turn, WasRemoved,
    },
    hash_token,
    part::Part,
    view::{View, dialect_letter},
};
use crate::peer_list::{Dialect, PeerId, PeerInfo, PeerToken, Proof, Reason};

/// A verb with its arguments, and what it is answered with.
pub(super) struct Call<A> {
    pub words: Words,
    answer: PhantomData<fn() -> A>,
}

/// What the script is given.
pub(super) struct Words {
    pub verb: &'static str,
    pub args: Vec<Vec<u8>>,
    /// Asked when it is the turn of a light verb: whether it is still to be carried out. None:
    /// it is.
    pub is_wanted: Option<Wanted>,
}

pub(super) type Wanted = Arc<dyn Fn() -> bool + Send + Sync>;

/// A verb that may not begin after a certain time, because its client is refused soon
/// after it. That time comes before its arguments.
pub(super) struct TimedCall<A>(pub Call<A>);

/// What the script takes as one argument, or as all remaining ones.
trait Arg {
    fn write(self, args: &mut Vec<Vec<u8>>);
}

macro_rules! verbs {
    ($($(#[$doc:meta])* $kind:ident $name:ident($($arg:ident: $type:ty),* $(,)?) -> $answer:ty;)*) => {
        $(
            $(#[$doc])*
            #[allow(clippy::too_many_arguments, reason = "as many as the script takes")]
            pub(super) fn $name($($arg: $type),*) -> verbs!(@call $kind $answer) {
                #[allow(unused_mut, reason = "a verb may have no arguments")]
                let mut args = Vec::new();
                $($arg.write(&mut args);)*
                let words = Words { verb: stringify!($name), args, is_wanted: None };
                verbs!(@make $kind Call { words, answer: PhantomData })
            }
        )*

        /// The names of all verbs, whether each has a time, and their arguments.
        #[cfg(test)]
        const ALL: &[(&str, bool, &[&str])] = &[
            $((stringify!($name), verbs!(@timed $kind), &[$(stringify!($arg)),*]),)*
        ];
    };
    (@call now $answer:ty) => { Call<$answer> };
    (@call in_time $answer:ty) => { TimedCall<$answer> };
    (@make now $call:expr) => { $call };
    (@make in_time $call:expr) => { TimedCall($call) };
    (@timed now) => { false };
    (@timed in_time) => { true };
}

verbs! {
    // How peers sign in and leave.
    in_time add_peer(
        op: &str, name: &str, door: &str, dialect: Dialect, token: &PeerToken, highest: u32,
        protected: bool, user: &str, address: &str, ice_servers: &str, network: &str,
    ) -> SignedInAs;
    in_time resume_peer(
        op: &str, id: PeerId, token: &PeerToken, name: &str, door: &str, dialect: Dialect,
        user: &str, address: &str, ice_servers: &str, has_socket: bool,
    ) -> SignedInAs;
    /// The operation with this name was refused: the sign-in is undone, or never done.
    now give_up_sign_in(op: &str) -> Anything;
    /// The sign-in of a peer is answered.
    now signed_in(id: PeerId, link: Option<u64>, lingers: bool) -> Anything;
    now check_token(id: PeerId, token: Option<&PeerToken>) -> ();
    now remove_peer(op: &str, id: PeerId, reason: Reason) -> WasRemoved;
    /// `grace`: in ms.
    now sign_out_later(id: PeerId, grace: u64) -> Anything;
    /// The grace of a peer that signs out later is over.
    now leave(id: PeerId) -> Left;
    /// `here`: only those of this room. `skip`: how many stale peers to pass over.
    now collect(here: bool, skip: u64) -> RemovedSome;

    // Requests of peers.
    now heartbeat(id: PeerId, token: &Proof, link: Option<u64>, lingers: bool) -> ();
    /// As `seen`.
    now ice_servers(
        id: PeerId, token: &Proof, link: Option<u64>, lingers: bool,
    ) -> Kept;
    now set_capacity(
        id: PeerId, token: &Proof, link: Option<u64>, lingers: bool, capacity: u64,
    ) -> ();
    now seen(id: PeerId, token: &Proof, link: Option<u64>, lingers: bool) -> ();
    /// `sequence`: the sender's number of the message. `polls`: whether it came in a
    /// request.
    in_time send(
        op: &str, from: PeerId, token: &Proof, to: PeerId, link: Option<u64>,
        lingers: bool, sequence: Option<u64>, polls: bool, body: &Bytes,
    ) -> ();
    /// A connection that a peer used is closed.
    now unlink(id: PeerId, link: u64) -> Anything;

    // Waits and deliveries.
    /// `began`: in ms. None: a newer wait of its node has overtaken it. `before`: the last wait
    /// of the peer here (or nothing), where it has heard the version `heard`, and that is over
    /// since `ago` ms, or still open.
    now wait(
        began: Option<u64>, wait: &str, id: PeerId, token: &Proof, link: Option<u64>,
        acknowledged: Option<u64>, told: u64, before: &str, heard: Option<u64>,
        ago: Option<u64>,
    ) -> BegunWait;
    now take(
        began: u64, id: PeerId, lease: &str, acknowledged: Option<u64>, told: u64,
        heard: Option<u64>,
    ) -> Next;
    /// `hears`: `message`, `version`, or nothing if the news were not handed over.
    now done(id: PeerId, lease: &str, hears: &str, number: u64, ends: bool, lingers: bool) -> Anything;
    /// The wait was told of the list up to this version by its node (None: in vain), and is over
    /// since `ago` ms.
    now heard(id: PeerId, wait: &str, version: Option<u64>, lingers: bool, ago: u64) -> Anything;
    /// What the peer has heard at a wait that was taken over from.
    now heard_before(id: PeerId, wait: &str, version: Option<u64>) -> Anything;
    now end_wait(id: PeerId, wait: &str, lingers: bool, heard: Option<u64>) -> EndedWait;
    now acknowledge(id: PeerId, number: u64) -> Anything;
    now has_space(id: PeerId, bytes: usize) -> Space;
    /// `before`: how many messages the peer had taken.
    now give_up(id: PeerId, bytes: usize, before: &str) -> SpaceAfterAll;

    // Sockets.
    in_time open_socket(
        opening: &str, id: PeerId, resumes: bool, acknowledged: Option<u64>,
    ) -> OpenedSocket;
    now close_socket(id: PeerId, session: u64, reason: Reason) -> ClosedSocket;
    now drop_socket(id: PeerId, opening: &str) -> Anything;

    // Unlisted peers, channels, aliases and announcements.
    /// `secret`: the hash of the key by which it may come back, or nothing.
    in_time add_unlisted(
        op: &str, secret: &str, door: &str, token: &PeerToken, highest: u32, user: &str,
        address: &str, ice_servers: &str, network: &str, channels: &[&str],
    ) -> CameIn;
    in_time resume_unlisted(
        op: &str, id: PeerId, token: &PeerToken, user: &str, address: &str, ice_servers: &str,
    ) -> CameIn;
    now list_peer(
        op: &str, id: PeerId, name: &str, card: &Bytes, hello: &Bytes, farewell: &Bytes,
    ) -> Owed;
    now cards_of(ids: &[PeerId]) -> Cards;
    /// `kept`: in ms.
    now claim(id: PeerId, scope: &str, name: &str, kept: u64) -> ();
    now send_to_alias(op: &str, id: PeerId, scope: &str, name: &str, body: &Bytes) -> OwedToHolder;
    /// `size`: that of the group, if the channel is one of a group.
    now join(
        op: &str, id: PeerId, name: &str, size: Option<u64>, hello: &Bytes,
    ) -> OwedInChannel;
    now count_in(channel: &str) -> Count;
    now leave_channel(id: PeerId, channel: &str) -> ();
    now publish(
        op: &str, id: PeerId, number: Option<u64>, echoes: bool, body: &Bytes, channels: &[&str],
    ) -> Owed;
    /// Pushes what was said to more of those who are to hear it.
    now push_more(op: &str, from: PeerId, number: Option<u64>, kind: &str, body: &Bytes) -> Owed;
    now push_owed(
        op: &str, from: PeerId, number: Option<u64>, id: PeerId, kind: &str, body: &Bytes,
    ) -> Pushed;
    now announce(op: &str, id: PeerId, name: &str) -> Owed;
    /// Publishes farewells that many are to hear.
    now say_farewells() -> More;
    now watch_for(op: &str, id: PeerId, name: &str) -> Owed;

    // The list as it is now.
    now view(known: Known, statuses: bool) -> View;
    now more_listed(cursor: &str) -> Part;
    now more_lingering(cursor: &str) -> Part;
    /// This node has no copy of the list any more.
    now forget_room() -> Anything;
    now tally() -> Counted;
    now rooms(cursor: &str) -> SomeRooms;
    now peer_info(id: PeerId) -> Option<PeerInfo>;
    now peer_infos(ids: &[String]) -> Vec<PeerInfo>;
    now listed(cursor: &str) -> Part;
    /// This node listens from now on.
    now events(known: u64) -> EventLines;
    now hear_no_events() -> Anything;
    now webhook(number: u64) -> Turn;
    now webhook_sent(number: u64) -> Anything;
    now webhook_sent_last() -> SentLast;

    // Nodes.
    /// `elsewhere`: how many peers the other shards have.
    now live(highest: u32, highest_in_rooms: u32, elsewhere: u64) -> Life;
    now bury() -> RemovedSome;
    now open_here(cursor: &str) -> ClaimedHere;
    now not_open(id: PeerId, name: &str) -> Anything;
    now uses_library() -> Libraries;
    now stop() -> RemovedSome;
    now ready() -> Readiness;
}

/// The version of the list that a node knows, if it knows one.
#[derive(Clone, Copy)]
pub(super) struct Known(pub Option<u64>);

impl Arg for Known {
    fn write(self, args: &mut Vec<Vec<u8>>) {
        let known = self.0.map(|known| known.to_string());
        args.push(known.unwrap_or_else(|| "-1".to_owned()).into());
    }
}

impl Arg for &str {
    fn write(self, args: &mut Vec<Vec<u8>>) {
        args.push(self.into());
    }
}

impl Arg for &Bytes {
    fn write(self, args: &mut Vec<Vec<u8>>) {
        args.push(self.to_vec());
    }
}

impl Arg for bool {
    fn write(self, args: &mut Vec<Vec<u8>>) {
        args.push((if self { "1" } else { "0" }).into());
    }
}

impl Arg for Option<u64> {
    fn write(self, args: &mut Vec<Vec<u8>>) {
        args.push(
            self.map(|number| number.to_string())
                .unwrap_or_default()
                .into(),
        );
    }
}

/// Only the hash of a token is in Redis: somebody who reads Redis cannot act as a peer.
impl Arg for Option<&PeerToken> {
    fn write(self, args: &mut Vec<Vec<u8>>) {
        args.push(self.map(hash_token).unwrap_or_default().into());
    }
}

impl Arg for &Proof {
    fn write(self, args: &mut Vec<Vec<u8>>) {
        match self {
            Proof::Nothing => "".write(args),
            Proof::Token(token) => token.write(args),
            // No token has this hash.
            Proof::Trusted => "*".write(args),
        }
    }
}

impl Arg for &PeerToken {
    fn write(self, args: &mut Vec<Vec<u8>>) {
        Some(self).write(args);
    }
}

impl Arg for Dialect {
    fn write(self, args: &mut Vec<Vec<u8>>) {
        args.push(dialect_letter(self).into());
    }
}

impl Arg for &[&str] {
    fn write(self, args: &mut Vec<Vec<u8>>) {
        args.extend(self.iter().map(|arg| (*arg).into()));
    }
}

impl Arg for &[String] {
    fn write(self, args: &mut Vec<Vec<u8>>) {
        args.extend(self.iter().map(|arg| arg.as_bytes().to_vec()));
    }
}

impl Arg for &[PeerId] {
    fn write(self, args: &mut Vec<Vec<u8>>) {
        self.iter().for_each(|id| id.write(args));
    }
}

macro_rules! as_written {
    ($($type:ty),*) => {
        $(impl Arg for $type {
            fn write(self, args: &mut Vec<Vec<u8>>) {
                args.push(self.to_string().into());
            }
        })*
    };
}

as_written!(PeerId, Reason, u32, u64, usize);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer_list::redis::library::SCRIPT;

    /// The verbs of the script: name, whether it has a time, and arguments. The last
    /// argument may stand for all remaining ones.
    fn in_script() -> Vec<(String, bool, Vec<String>)> {
        // Arguments that go on in the next line.
        let script = SCRIPT.replace(",\n  ", ", ");
        let verbs = script.lines().filter_map(|line| {
            let (head, args) = line.split_once('(')?;
            let (name, timed, args) = match head.strip_prefix("function verbs.") {
                Some(name) => (name, false, args),
                None => {
                    let name = head.strip_prefix("verbs.")?.strip_suffix(" = in_time")?;
                    (name, true, args.strip_prefix("function(")?)
                }
            };
            let args = args.trim_end_matches(')').split(", ");
            let args = args.filter(|arg| !arg.is_empty()).map(str::to_owned);
            // The first argument of a verb with a time is that time, which
            // `ShardLink::command` adds.
            Some((
                name.to_owned(),
                timed,
                args.skip(usize::from(timed)).collect(),
            ))
        });
        verbs.collect()
    }

    #[test]
    fn each_verb_is_called_with_the_arguments_that_the_script_takes() {
        let script = in_script();
        assert_eq!(script.len(), ALL.len());
        for (name, timed, args) in script {
            let (_, is_timed, ours) = ALL
                .iter()
                .find(|(ours, ..)| *ours == name)
                .unwrap_or_else(|| panic!("{name} is not called"));
            assert_eq!(timed, *is_timed, "{name}");
            assert_eq!(args.len(), ours.len(), "{name}");
            for (arg, ours) in args.iter().zip(*ours) {
                assert!(arg == "..." || arg == ours, "{name}: {arg} is not {ours}");
            }
        }
    }
}
