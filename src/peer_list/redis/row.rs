//! The answers of the script, read from the front.

use bytes::Bytes;
use redis::Value;
use tracing::error;

use crate::peer_list::Refusal;

/// The answer to a verb.
pub(super) trait Answer: Sized {
    /// Reads an answer.
    ///
    /// Errors: the script's refusal; [`Refusal::Unavailable`] if the answer cannot be read,
    /// because a node of another version caused it, or the call came too late.
    fn read(row: Row) -> Result<Self, Refusal>;
}

/// An array that the script answered with, read from the front. A value that is missing,
/// or of another kind, reads as nothing.
#[derive(Debug)]
pub(super) struct Row(std::vec::IntoIter<Value>);

impl Row {
    pub fn of(value: Value) -> Result<Self, Refusal> {
        match value {
            Value::Array(values) => Ok(Self(values.into_iter())),
            other => {
                error!(?other, "unexpected answer of Redis");
                Err(Refusal::Unavailable)
            }
        }
    }

    pub fn bytes(&mut self) -> Option<Bytes> {
        match self.0.next()? {
            Value::BulkString(bytes) => Some(bytes.into()),
            Value::SimpleString(text) => Some(text.into_bytes().into()),
            Value::Int(number) => Some(number.to_string().into()),
            _ => None,
        }
    }

    /// All remaining values: each as bytes, or None if it is neither a string nor a
    /// number.
    pub fn all_bytes(mut self) -> Vec<Option<Bytes>> {
        let mut all = Vec::new();
        while !self.0.as_slice().is_empty() {
            all.push(self.bytes());
        }
        all
    }

    pub fn text(&mut self) -> Option<String> {
        let bytes = self.bytes()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The time of Redis, in ms, if this says that a verb came too late.
    pub fn late_at(&mut self) -> Option<u64> {
        let is_late = match self.0.as_slice().first()? {
            Value::BulkString(word) => word == b"late",
            Value::SimpleString(word) => word == "late",
            _ => false,
        };
        if !is_late {
            return None;
        }
        self.kind();
        self.number()
    }

    /// The first word of an answer: its kind.
    pub fn kind(&mut self) -> String {
        self.text().unwrap_or_default()
    }

    pub fn number<T: std::str::FromStr>(&mut self) -> Option<T> {
        self.text()?.parse().ok()
    }

    pub fn row(&mut self) -> Option<Row> {
        match self.0.next()? {
            Value::Array(values) => Some(Self(values.into_iter())),
            _ => None,
        }
    }

    /// A row, or nothing where the script has `false`. None: there is no value.
    pub fn row_or_nothing(&mut self) -> Option<Option<Row>> {
        Some(match self.0.next()? {
            Value::Array(values) => Some(Self(values.into_iter())),
            _ => None,
        })
    }

    /// The remaining values, as rows.
    pub fn rows(mut self) -> Vec<Row> {
        let mut rows = Vec::new();
        while !self.0.as_slice().is_empty() {
            rows.extend(self.row());
        }
        rows
    }

    /// The remaining values, as texts.
    pub fn texts(mut self) -> Vec<String> {
        let mut texts = Vec::new();
        while !self.0.as_slice().is_empty() {
            texts.extend(self.text());
        }
        texts
    }
}
