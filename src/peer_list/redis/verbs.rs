//! The verbs of the script, each as a function with named arguments. A test holds names
//! and arguments against the script.

use bytes::Bytes;

use super::{hash_token, view::dialect_letter};
use crate::peer_list::{Dialect, PeerId, PeerToken, Proof, Reason};

/// A verb with its arguments.
pub(super) struct Call {
    pub verb: &'static str,
    pub args: Vec<Vec<u8>>,
}

/// A verb that may not begin after a certain time, because its client is refused soon
/// after it. That time comes before its arguments.
pub(super) struct TimedCall(pub Call);

/// What the script takes as one argument, or as all remaining ones.
trait Arg {
    fn write(self, args: &mut Vec<Vec<u8>>);
}

macro_rules! verbs {
    ($($(#[$doc:meta])* $kind:ident $name:ident($($arg:ident: $type:ty),* $(,)?);)*) => {
        $(
            $(#[$doc])*
            #[allow(clippy::too_many_arguments, reason = "as many as the script takes")]
            pub(super) fn $name($($arg: $type),*) -> verbs!(@call $kind) {
                #[allow(unused_mut, reason = "a verb may have no arguments")]
                let mut args = Vec::new();
                $($arg.write(&mut args);)*
                verbs!(@make $kind Call { verb: stringify!($name), args })
            }
        )*

        /// The names of all verbs, whether each has a time, and their arguments.
        #[cfg(test)]
        const ALL: &[(&str, bool, &[&str])] = &[
            $((stringify!($name), verbs!(@timed $kind), &[$(stringify!($arg)),*]),)*
        ];
    };
    (@call now) => { Call };
    (@call in_time) => { TimedCall };
    (@make now $call:expr) => { $call };
    (@make in_time $call:expr) => { TimedCall($call) };
    (@timed now) => { false };
    (@timed in_time) => { true };
}

verbs! {
    // How peers sign in and leave.
    in_time add_peer(
        op: &str, name: &str, door: &str, dialect: Dialect, token: &PeerToken, highest: u32,
        protected: bool,
    );
    in_time resume_peer(
        op: &str, id: PeerId, token: &PeerToken, name: &str, door: &str, dialect: Dialect,
    );
    /// The operation with this name was refused: the sign-in is undone, or never done.
    now give_up_sign_in(op: &str);
    /// The sign-in of a peer is answered.
    now signed_in(id: PeerId, link: Option<u64>, lingers: bool);
    now check_token(id: PeerId, token: Option<&PeerToken>);
    now remove_peer(op: &str, id: PeerId, reason: Reason);
    /// `grace`: in ms.
    now sign_out_later(id: PeerId, grace: u64);
    /// The grace of a peer that signs out later is over.
    now leave(id: PeerId);
    now collect();

    // Requests of peers.
    now heartbeat(id: PeerId, token: &Proof, link: Option<u64>, lingers: bool);
    now set_capacity(
        id: PeerId, token: &Proof, link: Option<u64>, lingers: bool, capacity: u64,
    );
    now seen(id: PeerId, token: &Proof, link: Option<u64>, lingers: bool);
    /// `sequence`: the sender's number of the message. `polls`: whether it came in a
    /// request.
    in_time send(
        op: &str, from: PeerId, token: &Proof, to: PeerId, link: Option<u64>,
        lingers: bool, sequence: Option<u64>, polls: bool, body: &Bytes,
    );
    /// A connection that a peer used is closed.
    now unlink(id: PeerId, link: u64);

    // Waits and deliveries.
    now wait(
        began: u64, wait: &str, id: PeerId, token: &Proof, link: Option<u64>,
        acknowledged: Option<u64>, told: u64,
    );
    now take(began: u64, id: PeerId, lease: &str, acknowledged: Option<u64>, told: u64);
    /// `hears`: `message`, `version`, or nothing if the news were not handed over.
    now done(id: PeerId, lease: &str, hears: &str, number: u64, ends: bool, lingers: bool);
    now end_wait(id: PeerId, wait: &str, lingers: bool);
    now acknowledge(id: PeerId, number: u64);
    now has_room(id: PeerId, bytes: usize);
    /// `before`: how many messages the peer had taken.
    now give_up(id: PeerId, bytes: usize, before: &str);

    // Sockets.
    in_time open_socket(opening: &str, id: PeerId, resumes: bool);
    now close_socket(id: PeerId, session: u64, reason: Reason);
    now drop_socket(id: PeerId, opening: &str);

    // Unlisted peers, channels, aliases and announcements.
    /// `secret`: the hash of the key by which it may come back, or nothing.
    in_time add_unlisted(
        op: &str, secret: &str, door: &str, token: &PeerToken, highest: u32, channels: &[&str],
    );
    in_time resume_unlisted(op: &str, id: PeerId, token: &PeerToken);
    now list_peer(
        op: &str, id: PeerId, name: &str, card: &Bytes, hello: &Bytes, farewell: &Bytes,
    );
    now cards_of(ids: &[PeerId]);
    now claim(id: PeerId, scope: &str, name: &str);
    now send_to_alias(op: &str, id: PeerId, scope: &str, name: &str, body: &Bytes);
    now join(id: PeerId, channel: &str);
    now leave_channel(id: PeerId, channel: &str);
    now publish(op: &str, id: PeerId, number: Option<u64>, body: &Bytes, channels: &[&str]);
    now push_owed(
        op: &str, from: PeerId, number: Option<u64>, id: PeerId, kind: &str, body: &Bytes,
    );
    now announce(op: &str, id: PeerId, name: &str);
    now watch_for(op: &str, id: PeerId, name: &str);

    // The list as it is now.
    now view(known: Known, statuses: bool);
    now peer_info(id: PeerId);
    now peer_infos(ids: &[String]);
    now listed();
    now events(known: u64);
    now webhook(number: u64);
    now webhook_sent(number: u64);
    now webhook_sent_last();

    // Nodes.
    now live(highest: u32);
    now bury();
    now open_here(cursor: &str);
    now not_open(id: PeerId, name: &str);
    now uses_library();
    now stop();
    now ready();
}

/// The version of the list that a node knows, if it knows one.
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
        let verbs = SCRIPT.lines().filter_map(|line| {
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
            // `ProcessLink::command` adds.
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
