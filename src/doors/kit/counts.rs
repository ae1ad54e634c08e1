//! What the doors and their connections count, for the metrics.

use std::{collections::BTreeMap, sync::Arc};

use axum::response::Response;
use parking_lot::Mutex;

use crate::{
    access::Denied,
    counter::{Counter, Gauge},
};

/// What happened at the doors of a server since it began.
#[derive(Debug, Default)]
pub struct DoorCounts {
    /// The connections that are open.
    pub connections: Gauge,
    /// The requests among them that are suspended: waits, and polls of Socket.IO.
    pub suspended: Gauge,
    /// Connections that were refused because too many are open.
    pub refused_as_full: Counter,
    /// Connections that were refused because too many of their address are open.
    pub refused_by_address: Counter,
    admitted: Counter,
    denied: [Counter; Denied::NAMES.len()],
    /// The answers of each door.
    answers: Mutex<BTreeMap<&'static str, Arc<Answers>>>,
}

/// How many answers had a status of each class.
#[derive(Debug, Default)]
pub(crate) struct Answers([Counter; CLASSES.len()]);

/// The classes, by the first digit of the status.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Answers {
    pub fn count(&self, answer: &Response) {
        let class = usize::from(answer.status().as_u16() / 100);
        if let Some(counter) = class.checked_sub(1).and_then(|class| self.0.get(class)) {
            counter.count();
        }
    }
}

impl DoorCounts {
    /// The answers of a door.
    pub(crate) fn answers_of(&self, door: &'static str) -> Arc<Answers> {
        self.answers.lock().entry(door).or_default().clone()
    }

    /// Access control has decided about a client.
    pub(crate) fn decided<T>(&self, admitted: &Result<T, Denied>) {
        match admitted {
            Ok(_) => self.admitted.count(),
            Err(denied) => self.denied[denied.index()].count(),
        }
    }

    /// How often clients were admitted, and how often they were not, for each reason.
    pub fn admissions(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let denied = Denied::NAMES.iter().zip(&self.denied);
        let denied = denied.map(|(name, counter)| (*name, counter.get()));
        [("admitted", self.admitted.get())]
            .into_iter()
            .chain(denied)
    }

    /// How many answers each door gave: the door, the class of the status (`2xx`), the number.
    pub fn answers(&self) -> Vec<(&'static str, &'static str, u64)> {
        let answers = self.answers.lock();
        let all = answers.iter().flat_map(|(door, answers)| {
            let classes = CLASSES.iter().zip(&answers.0);
            classes.map(|(class, counter)| (*door, *class, counter.get()))
        });
        all.collect()
    }
}
