//! The lines of the list as peers are sent them, in parts that the lists of different
//! moments share.

use std::{fmt, sync::Arc};

use bytes::Bytes;

/// Lines `NAME,ID,STATUS\n` of the list at one moment.
///
/// A large list is in several parts. Lists of consecutive moments share the parts that
/// did not change, so that a thousand clients that read slowly hold little more than one
/// copy.
#[derive(Clone)]
pub struct Lines(Parts);

#[derive(Clone)]
enum Parts {
    One(Bytes),
    Many(Arc<[Bytes]>),
}

impl Lines {
    /// The parts, in order. None of them is empty, except that a list without
    /// lines may be one empty part.
    pub fn parts(&self) -> &[Bytes] {
        match &self.0 {
            Parts::One(part) => std::slice::from_ref(part),
            Parts::Many(parts) => parts,
        }
    }

    /// The length of all parts, in bytes.
    pub fn len(&self) -> usize {
        self.parts().iter().map(Bytes::len).sum()
    }

    /// Whether there are no lines.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All parts in one; a copy if there are several.
    pub fn to_bytes(&self) -> Bytes {
        match &self.0 {
            Parts::One(part) => part.clone(),
            Parts::Many(parts) => parts.concat().into(),
        }
    }
}

impl From<Bytes> for Lines {
    fn from(lines: Bytes) -> Self {
        Self(Parts::One(lines))
    }
}

impl From<String> for Lines {
    fn from(lines: String) -> Self {
        Self(Parts::One(lines.into()))
    }
}

impl From<&'static str> for Lines {
    fn from(lines: &'static str) -> Self {
        Self(Parts::One(Bytes::from_static(lines.as_bytes())))
    }
}

impl FromIterator<Bytes> for Lines {
    fn from_iter<I: IntoIterator<Item = Bytes>>(parts: I) -> Self {
        let mut parts = parts.into_iter().filter(|part| !part.is_empty());
        match (parts.next(), parts.next()) {
            (first, None) => Self(Parts::One(first.unwrap_or_default())),
            (first, second) => {
                let parts = first.into_iter().chain(second).chain(parts);
                Self(Parts::Many(parts.collect()))
            }
        }
    }
}

impl PartialEq for Lines {
    fn eq(&self, other: &Self) -> bool {
        self.to_bytes() == other.to_bytes()
    }
}

impl Eq for Lines {}

impl PartialEq<str> for Lines {
    fn eq(&self, other: &str) -> bool {
        self.to_bytes() == other.as_bytes()
    }
}

impl PartialEq<&str> for Lines {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes().fmt(f)
    }
}
