//! Waiting for news at this list.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{
    answers::{BegunWait, EndedWait, Next},
    deliveries::Heard,
    here::Undecided,
    lease::Told,
    link_of,
    list::List,
    looking::{Found, Looking, gone},
    open_wait::{FirstRequest, OpenWait},
    verbs,
};
use crate::peer_list::{Caller, Delivery, Dialect, News, Reason, Refusal, WaitOpts};

/// How long the end of a wait waits for Redis before the wait is answered from the node's
/// copy; and how long its beginning does, however short the wait is to be.
const END_PATIENCE: Duration = Duration::from_millis(500);

/// A shorter wait asks Redis in any case.
const SHORT: Duration = Duration::from_secs(1);

/// A wait of a peer that polls. Dropping it tells Redis that it is over.
struct Wait {
    looking: Looking,
    open: Arc<OpenWait>,
    /// None: it lasts until there is news.
    end: Option<Instant>,
    /// How its client is told of changes; the peer's own dialect may change later. None:
    /// Redis has not accepted the wait, as far as this node knows.
    dialect: Option<Dialect>,
    /// Whether Redis knows of it, or may know.
    is_open: bool,
    /// The version of the list that its peer has heard at the wait before, which Redis is told
    /// of with this one.
    heard: Option<u64>,
    /// It goes on with the wait of an earlier request.
    goes_on: bool,
}

/// The beginning of a wait.
enum Begun {
    /// Redis has the wait, and has found this for it.
    With(Found),
    /// The time of the wait is over, and Redis was away.
    TooLate,
}

impl Wait {
    fn new(list: &Arc<List>, caller: &Caller, acknowledges: bool, end: Option<Instant>) -> Self {
        let (number, name) = list.next_wait();
        // Registered before Redis is asked, so that no push in between is missed.
        let (here, open) = list.open(caller.id);
        here.set_wait(number, link_of(caller));
        let open = OpenWait {
            here: here.clone(),
            number,
            name,
            began: list.shard.link.clock_in(Duration::ZERO),
            first: FirstRequest {
                proof: caller.proof.clone(),
                link: link_of(caller),
                acknowledges,
            },
            _open: open,
        };
        Self {
            looking: Looking {
                list: list.clone(),
                here,
                id: caller.id,
            },
            open: Arc::new(open),
            end,
            dialect: None,
            is_open: false,
            heard: None,
            goes_on: false,
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

    /// Goes on with a wait of which Redis knows, or tells Redis of this one. It stays open while
    /// Redis is away.
    async fn begin(
        &mut self,
        caller: &Caller,
        acknowledged: Option<u64>,
    ) -> Result<Begun, Refusal> {
        let Looking { list, id, here } = &self.looking.clone();
        here.set_acknowledged(acknowledged);
        let undecided = Undecided(here.clone());
        let settled = async {
            tokio::select! {
                biased;
                () = list.deliveries.settled(*id) => None,
                reason = here.until_removed() => Some(reason),
            }
        };
        match self.in_time(END_PATIENCE, settled).await {
            None => {
                // Redis is told that this wait is over, and so that those before it are.
                self.are_last_before();
                return Ok(Begun::TooLate);
            }
            Some(None) => {}
            Some(Some(reason)) => {
                // While it was told the list at another wait.
                self.dialect = Some(Dialect::Listed);
                return Ok(Begun::With(Found::Removed(reason)));
            }
        }
        let answered = list.deliveries.take_heard(*id);
        if let Some(answered) = &answered
            && self.can_go_on_with(&answered.wait)
        {
            self.go_on_with(&answered.wait);
            return Ok(Begun::With(Found::Nothing));
        }
        self.begin_in_redis(caller, acknowledged, answered, undecided)
            .await
    }

    /// Tells Redis of this wait, and of the one before that was answered.
    async fn begin_in_redis(
        &mut self,
        caller: &Caller,
        acknowledged: Option<u64>,
        answered: Option<Heard>,
        undecided: Undecided,
    ) -> Result<Begun, Refusal> {
        let number = self.open.number;
        let Looking { list, id, .. } = &self.looking.clone();
        // From now on Redis may have it, even if the answer is lost.
        self.is_open = true;
        self.are_last_before();
        self.heard = answered.as_ref().map(|answered| answered.version);
        let asked = self.ask(caller, acknowledged, answered.as_ref());
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
        let BegunWait { next, dialect } = begun?;
        self.dialect = dialect;
        if !matches!(next, Some(Next::Outdated)) {
            // Earlier waits of the peer here are told nothing any more.
            list.set_outdated(*id, number - 1);
        }
        drop(undecided);
        let found = match next {
            Some(next) => self.looking.find(next).await.ok(),
            None => None,
        };
        Ok(Begun::With(match found {
            Some(found) => found,
            None => self.look().await,
        }))
    }

    /// No request goes on with a wait of its peer that is open here and not this one.
    fn are_last_before(&self) {
        let Looking { list, id, here } = &self.looking;
        for other in list.open_of(*id) {
            if !Arc::ptr_eq(&other, here) {
                other.set_must_ask();
            }
        }
    }

    /// Whether this request can go on with a wait that was answered.
    fn can_go_on_with(&self, answered: &OpenWait) -> bool {
        let Looking { list, id, .. } = &self.looking;
        // A message may be there that was not pushed yet: a short wait has to ask.
        let is_short = self.end.is_some_and(|end| end <= Instant::now() + SHORT);
        !is_short
            && self.open.first.is_like(&answered.first)
            && answered.here.can_go_on()
            // Beside these two there is none that Redis may know of, nor the end of one.
            && list.open_of(*id).len() == 2
            && !list.ended.has_wait(*id)
    }

    /// What its peer has heard, as far as this node knows.
    fn heard(&self) -> Option<u64> {
        self.looking.here.heard().or(self.heard)
    }

    fn go_on_with(&mut self, answered: &Arc<OpenWait>) {
        self.goes_on = true;
        self.looking.here = answered.here.clone();
        self.open = answered.clone();
        self.is_open = true;
        self.dialect = Some(Dialect::Listed);
    }

    /// Asks Redis for news, with what this node knows of the wait before.
    async fn ask(
        &self,
        caller: &Caller,
        acknowledged: Option<u64>,
        answered: Option<&Heard>,
    ) -> Result<BegunWait, Refusal> {
        let Looking { list, id, here } = &self.looking;
        let number = self.open.number;
        list.later_are_decided(*id, number).await;
        let last = list.last_before(*id, number);
        let (before, heard, ago) = match (answered, last) {
            (Some(answered), _) => {
                let before = answered.wait.name.clone();
                (before, Some(answered.version), Some(answered.ago()))
            }
            (None, Some((before, heard))) => (list.wait_name(before), heard, None),
            (None, None) => (String::new(), None, None),
        };
        // Redis does not keep which wait was the newest when that is over.
        let began = (!here.is_outdated()).then_some(self.open.began);
        let wait = verbs::wait(
            began,
            &self.open.name,
            *id,
            &caller.proof,
            link_of(caller),
            acknowledged,
            list.told(),
            &before,
            heard,
            ago,
        );
        list.run(wait, None).await
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
        let told = Told::new(list, *id, &self.open, version)?;
        let news = News::Status(cached.list_for_waiting(*id, Some(heard)));
        Some(Delivery::lent(news, 0, told))
    }

    async fn look(&self) -> Found {
        let OpenWait { name, began, .. } = &*self.open;
        let look = self.looking.look(name, *began);
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
        let Looking { list, id, here } = &self.looking.clone();
        if let Some(reason) = here.removed() {
            return self.removed(reason).await;
        }
        let end = verbs::end_wait(*id, &self.open.name, true, self.heard());
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
        let number = self.open.number;
        if self.is_open {
            let heard = self.heard();
            list.close(*id, here);
            if self.dialect.is_some() {
                list.set_outdated(*id, number);
            }
            list.wait_is_over(*id, number, heard);
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
    let mut wait = Wait::new(list, caller, opts.acknowledged.is_some(), end);
    let mut asked_for = list.told();
    let mut found = match wait.begin(caller, opts.acknowledged).await? {
        Begun::With(found) => found,
        Begun::TooLate => return wait.nothing().await,
    };
    loop {
        let here = wait.looking.here.clone();
        let mut left = None;
        match found {
            Found::Lent(news, message, hears) => {
                return Ok(
                    wait.with(|wait| wait.looking.lend(&wait.open.name, news, message, hears))
                );
            }
            Found::Removed(reason) => return wait.removed(reason).await,
            Found::Outdated => here.set_outdated(),
            Found::Later(soon) => left = Some(soon),
            Found::Nothing => {}
        }
        if let Some(reason) = here.removed() {
            return wait.removed(reason).await;
        }
        // Its request may have come later than the wait that Redis has: the client has to ask again.
        if wait.goes_on && here.is_outdated() {
            return wait.nothing().await;
        }
        // A push came while Redis answered, when the peer was not known to be behind.
        let is_behind = list.told() > asked_for && here.is_behind(list.told());
        if here.is_over() || !is_behind && !wait.until_news(left).await {
            return wait.nothing().await;
        }
        if let Some(delivery) = wait.list_from_copy() {
            return Ok(wait.with(|_| delivery));
        }
        asked_for = list.told();
        let is_listed = wait.dialect == Some(Dialect::Listed);
        found = match found {
            // A wait that was replaced only waits for its end.
            Found::Outdated => Found::Outdated,
            Found::Nothing if is_listed && !here.has_to_look(asked_for) => Found::Nothing,
            _ => wait.look().await,
        };
    }
}
