//! Waiting for news at this list.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{
    answers::{BegunWait, EndedWait, Next},
    here::{OpenHere, Undecided},
    lease::{Hears, Lease},
    link_of,
    list::List,
    retry, verbs,
};
use crate::peer_list::{Caller, Delivery, Dialect, News, PeerId, Reason, Refusal, WaitOpts};

/// How long the end of a wait waits for Redis before the wait is answered from the node's
/// copy; and how long its beginning does, however short the wait is to be.
const END_PATIENCE: Duration = Duration::from_millis(500);

/// The result of a look for news.
pub(super) enum Found {
    Lent(News, u64, Hears),
    Nothing,
    /// An older wait is being given something, or something was given just now: look
    /// again after this time.
    Later(Duration),
    /// A newer wait, or another socket, is given the news.
    Outdated,
    Removed(Reason),
}

/// An open wait or socket that looks for news.
pub(super) struct Looking {
    pub list: Arc<List>,
    pub here: Arc<OpenHere>,
    pub id: PeerId,
}

impl Looking {
    pub fn new(list: &Arc<List>, id: PeerId) -> Self {
        Self {
            list: list.clone(),
            here: list.open(id),
            id,
        }
    }

    /// Finds what the script names, which may have to be asked for.
    async fn find(&self, next: Next) -> Result<Found, Refusal> {
        Ok(match next {
            Next::Message { number, news } => Found::Lent(news, number, Hears::Message(number)),
            Next::List { heard, moment } => {
                self.list.sync_to(moment, None).await?;
                let mut cached = self.list.cached.lock();
                let list = cached.list_for_waiting(self.id, Some(heard));
                let version = Hears::Version(cached.roster.current());
                Found::Lent(News::Status(list), 0, version)
            }
            Next::Line { version, line } => {
                Found::Lent(News::Status(line), 0, Hears::Version(version))
            }
            Next::Nothing => Found::Nothing,
            Next::Later(left) => Found::Later(left),
            Next::Outdated => Found::Outdated,
            Next::Gone(told) => Found::Removed(gone(&self.here, told)),
        })
    }

    /// Looks for news under a lease, and waits for Redis as long as it takes. `began`:
    /// when the wait began, by Redis' clock in ms (a socket: 0).
    pub async fn look(&self, lease: &str, began: u64) -> Found {
        retry::until_answered(|| async {
            self.here.looks();
            let told = self.list.told();
            let acknowledged = self.here.acknowledged();
            let take = verbs::take(began, self.id, lease, acknowledged, told);
            // An error: a node of another version may have written what this one cannot
            // read.
            self.find(self.list.run(take, None).await?).await
        })
        .await
    }

    pub fn lend(&self, lease: &str, news: News, number: u64, hears: Hears) -> Delivery {
        let lease = Lease::new(&self.list, &self.here, self.id, lease, hears);
        Delivery::lent(news, number, lease)
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.list.close(self.id, &self.here);
    }
}

/// A wait of a peer that polls. Dropping it tells Redis that it is over.
struct Wait {
    looking: Looking,
    number: u64,
    /// Its name in Redis.
    name: String,
    /// When it began, by Redis' clock in ms.
    began: u64,
    /// None: it lasts until there is news.
    end: Option<Instant>,
    /// How its client is told of changes; the peer's own dialect may change later. None:
    /// Redis has not accepted the wait, as far as this node knows.
    dialect: Option<Dialect>,
    /// Whether Redis knows of it, or may know.
    is_open: bool,
}

/// The beginning of a wait.
enum Begun {
    /// Redis has the wait, and has found this for it.
    With(Found),
    /// The time of the wait is over, and Redis was away.
    TooLate,
}

impl Wait {
    fn new(list: &Arc<List>, id: PeerId, end: Option<Instant>) -> Self {
        let (number, name) = list.next_wait();
        // Registered before Redis is asked, so that no push in between is missed.
        let looking = Looking::new(list, id);
        looking.here.set_wait(number);
        Self {
            looking,
            number,
            name,
            began: list.shard.link.clock_in(Duration::ZERO),
            end,
            dialect: None,
            is_open: false,
        }
    }

    /// Carries out a call. None: the time of the wait is over, or its node stops; and at
    /// least this much time has passed.
    async fn in_time<T>(&self, at_least: Duration, step: impl Future<Output = T>) -> Option<T> {
        let least = Instant::now() + at_least;
        let over = async {
            let ended = self.looking.list.ended();
            match self.end {
                Some(end) => drop(timeout_at(end, ended).await),
                None => ended.await,
            }
            sleep_until(least).await;
        };
        tokio::select! {
            biased;
            value = step => Some(value),
            () = over => None,
        }
    }

    /// Tells Redis of the wait. It stays open while Redis is away.
    async fn begin(
        &mut self,
        caller: &Caller,
        acknowledged: Option<u64>,
    ) -> Result<Begun, Refusal> {
        let Looking { list, id, here } = &self.looking;
        let told = list.told();
        here.set_acknowledged(acknowledged);
        let undecided = Undecided(here.clone());
        // Redis may have it even if the answer is lost.
        self.is_open = true;
        let (token, link) = (&caller.proof, link_of(caller));
        let asked = async {
            tokio::select! {
                biased;
                () = list.deliveries.settled(*id) => {}
                reason = here.until_removed() => return Ok(BegunWait::of_gone(reason)),
            }
            list.later_are_decided(*id, self.number).await;
            let before = list.deliveries.take_heard(*id);
            let (before, heard) = before
                .as_ref()
                .map_or(("", 0), |before| (&*before.wait, before.version));
            // Redis does not keep which wait was the newest when that is over.
            let began = (!here.is_outdated()).then_some(self.began);
            let wait = verbs::wait(
                began,
                &self.name,
                *id,
                token,
                link,
                acknowledged,
                told,
                before,
                heard,
            );
            list.run(wait, None).await
        };
        // News that are there already go even to the shortest wait, and also while the
        // node stops.
        let Some(begun) = self.in_time(END_PATIENCE, asked).await else {
            return Ok(Begun::TooLate);
        };
        if begun
            .as_ref()
            .is_err_and(|refusal| *refusal != Refusal::Unavailable)
        {
            self.is_open = false;
        }
        let BegunWait {
            next,
            dialect,
            heard,
        } = begun?;
        self.dialect = dialect;
        here.set_heard(heard);
        if !matches!(next, Some(Next::Outdated)) {
            // Earlier waits of the peer here are told nothing any more.
            list.set_outdated(*id, self.number - 1);
        }
        drop(undecided);
        // A push came while Redis answered, when the peer was not known to be behind.
        let is_behind = heard.is_some_and(|heard| heard < list.told());
        let found = match next {
            Some(next) => self.looking.find(next).await.ok(),
            None => None,
        };
        Ok(match found {
            Some(found) if !is_behind || !matches!(found, Found::Nothing) => Begun::With(found),
            _ => Begun::With(self.look().await),
        })
    }

    /// The list, if nothing but its changes is to be told: this node has them, and Redis is
    /// told when the client has them.
    fn list_from_copy(&self) -> Option<Delivery> {
        let Looking { list, here, id } = &self.looking;
        if self.dialect != Some(Dialect::Listed) {
            return None;
        }
        // Of several waits only Redis knows which is the newest.
        if !list.is_newest(*id, here) {
            return None;
        }
        let heard = here.heard_before(list.told())?;
        let mut cached = list.cached.lock();
        let version = cached.roster.current();
        let lease = Lease::from_copy(list, here, *id, &self.name, version)?;
        let news = News::Status(cached.list_for_waiting(*id, Some(heard)));
        Some(Delivery::lent(news, 0, lease))
    }

    async fn look(&self) -> Found {
        let look = self.looking.look(&self.name, self.began);
        let looked = self.in_time(Duration::ZERO, look).await;
        looked.unwrap_or(Found::Nothing)
    }

    /// Waits until it is time to look again, at the latest `left` from now. False: the
    /// wait is over.
    async fn until_news(&self, left: Option<Duration>) -> bool {
        let news = self.looking.here.news.notified();
        let again = async {
            match left {
                Some(left) => drop(timeout(left, news).await),
                None => news.await,
            }
        };
        self.in_time(Duration::ZERO, again).await.is_some() && !self.looking.list.is_ending()
    }

    /// Ends the wait with a delivery, whose lease tells Redis.
    fn with(mut self, delivery: impl FnOnce(&Self) -> Delivery) -> Delivery {
        self.is_open = false;
        delivery(&self)
    }

    /// The time of the wait is over, and no news came.
    async fn nothing(mut self) -> Result<Delivery, Refusal> {
        let Looking { list, id, here } = &self.looking;
        if let Some(reason) = here.removed() {
            return self.removed(reason).await;
        }
        let end = verbs::end_wait(*id, &self.name, true);
        let ended = list.run(end, Some(END_PATIENCE));
        if let Ok(ended) = ended.await {
            self.is_open = false;
            match ended {
                EndedWait::Gone(told) => {
                    let reason = gone(here, told);
                    return self.removed(reason).await;
                }
                EndedWait::At(moment) => {
                    if let Some(moment) = moment {
                        let _ = list.sync_to(moment, Some(END_PATIENCE)).await;
                    }
                }
            }
        }
        self.list()
    }

    /// Its peer is gone. That is not an error to a client that has signed out itself:
    /// 3DStreamingToolkit's throws an unhandled error on anything but a 200.
    async fn removed(mut self, reason: Reason) -> Result<Delivery, Refusal> {
        self.is_open = false;
        if reason != Reason::SignedOut {
            return Ok(Delivery::last(News::Removed(reason)));
        }
        let _ = self.looking.list.sync(Some(END_PATIENCE)).await;
        self.list()
    }

    /// The answer to a wait without news.
    fn list(&self) -> Result<Delivery, Refusal> {
        let Looking { list, id, .. } = &self.looking;
        let mut cached = list.cached.lock();
        let dialect = self.dialect.or_else(|| cached.dialect(*id));
        // This node does not know the peer, and cannot say more.
        let dialect = dialect.ok_or(Refusal::Unavailable)?;
        Ok(Delivery::last(News::Nothing(match dialect {
            Dialect::Bare => "\n".into(),
            Dialect::Silent => "".into(),
            Dialect::Listed => cached.list_for_waiting(*id, None),
        })))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let Looking { list, id, here } = &self.looking;
        if self.is_open {
            list.close(*id, here);
            if self.dialect.is_some() {
                list.set_outdated(*id, self.number);
            }
            list.wait_is_over(*id, self.number);
        }
    }
}

/// See [`OpenRequest::wait`](crate::peer_list::OpenRequest::wait).
pub(super) async fn wait(
    list: &Arc<List>,
    caller: &Caller,
    opts: WaitOpts,
) -> Result<Delivery, Refusal> {
    let limit = opts.limit;
    let end = limit.and_then(|limit| Instant::now().checked_add(limit));
    let mut wait = Wait::new(list, caller.id, end);
    let mut found = match wait.begin(caller, opts.acknowledged).await? {
        Begun::With(found) => found,
        Begun::TooLate => return wait.nothing().await,
    };
    loop {
        let mut left = None;
        match found {
            Found::Lent(news, message, hears) => {
                return Ok(wait.with(|wait| wait.looking.lend(&wait.name, news, message, hears)));
            }
            Found::Removed(reason) => return wait.removed(reason).await,
            Found::Outdated => wait.looking.here.set_outdated(),
            Found::Later(soon) => left = Some(soon),
            Found::Nothing => {}
        }
        if let Some(reason) = wait.looking.here.removed() {
            return wait.removed(reason).await;
        }
        if wait.looking.here.is_over() || !wait.until_news(left).await {
            return wait.nothing().await;
        }
        if let Some(delivery) = wait.list_from_copy() {
            return Ok(wait.with(|_| delivery));
        }
        // A wait that was replaced only waits for its end.
        if !matches!(found, Found::Outdated) {
            found = wait.look().await;
        }
    }
}

/// Why a peer is gone: as its node was told, or as the script says.
fn gone(here: &OpenHere, told: Option<Reason>) -> Reason {
    here.removed().or(told).unwrap_or(Reason::TimedOut)
}
