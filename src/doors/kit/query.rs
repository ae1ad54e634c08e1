//! The parameters of a request, which are all in its query.

use std::borrow::Cow;

use axum::http::{HeaderMap, Uri};
use percent_encoding::percent_decode_str;

use super::{RequestError, reply::PEER_TOKEN};
use crate::peer_list::{Dialect, PeerId, PeerToken};

/// The longest peer id, in decimal digits.
const ID_DIGITS: usize = 10;

/// The query of a request, not decoded yet.
#[derive(Clone, Copy)]
pub(crate) struct Query<'a>(Option<&'a str>);

impl<'a> Query<'a> {
    pub fn of<B>(request: &'a axum::http::Request<B>) -> Self {
        Self::of_uri(request.uri())
    }

    pub fn of_uri(uri: &'a Uri) -> Self {
        Self(uri.query())
    }

    /// The name that a peer signs in with, and its dialect: `peer_name=NAME` is the form
    /// of `webrtc-signal-http`; a query without `=` is as a whole the name of a native
    /// client.
    pub fn name(self) -> Result<(Cow<'a, str>, Dialect), RequestError> {
        match self.0 {
            Some(query) if !query.is_empty() && !query.contains('=') => {
                let name = percent_decode_str(query).decode_utf8_lossy();
                Ok((name, Dialect::Bare))
            }
            _ => {
                let name = self.one("peer_name")?;
                let name = name.filter(|name| !name.is_empty());
                let name = name.ok_or(RequestError::MissingName)?;
                Ok((name, Dialect::Listed))
            }
        }
    }

    /// A parameter that is the id of a peer.
    pub fn peer_id(self, name: &'static str) -> Result<PeerId, RequestError> {
        let value = self.one(name)?.ok_or(RequestError::MissingId(name))?;
        let id = PeerId::parse(&value).filter(|_| value.len() <= ID_DIGITS);
        id.ok_or(RequestError::MalformedId(name))
    }

    /// A parameter that is any text, if the request has it.
    pub fn text(self, name: &'static str) -> Result<Option<Cow<'a, str>>, RequestError> {
        self.one(name)
    }

    /// A parameter that is a whole number of 0 or more, if the request has it.
    pub fn number(self, name: &'static str) -> Result<Option<u64>, RequestError> {
        let Some(value) = self.one(name)? else {
            return Ok(None);
        };
        let decimal = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        let number = value.parse().ok().filter(|_| decimal);
        number.map(Some).ok_or(RequestError::MalformedNumber(name))
    }

    /// The token that the request shows, in headers or in the query. If it is shown more
    /// than once, all have to be the same.
    pub fn token(self, headers: &HeaderMap) -> Result<Option<PeerToken>, RequestError> {
        let query = self.0.unwrap_or_default().as_bytes();
        let here = form_urlencoded::parse(query).filter(|(key, _)| key == "peer_token");
        let here = here.map(|(_, shown)| PeerToken::parse(&shown));
        let above = headers.get_all(PEER_TOKEN).into_iter();
        let above = above.map(|shown| shown.to_str().ok().and_then(PeerToken::parse));
        let mut token: Option<PeerToken> = None;
        for shown in above.chain(here) {
            let shown = shown.ok_or(RequestError::WrongToken)?;
            if token.replace(shown).is_some_and(|other| !other.is(&shown)) {
                return Err(RequestError::WrongToken);
            }
        }
        Ok(token)
    }

    /// The first value of a parameter, for protocols that do not refuse a repeated one.
    pub fn first(self, name: &str) -> Option<Cow<'a, str>> {
        let query = self.0.unwrap_or_default().as_bytes();
        let mut pairs = form_urlencoded::parse(query);
        let found = pairs.find(|(key, _)| key == name);
        found.map(|(_, value)| value)
    }

    /// Whether the request has a parameter.
    pub fn has(self, name: &str) -> bool {
        self.first(name).is_some()
    }

    fn one(self, name: &'static str) -> Result<Option<Cow<'a, str>>, RequestError> {
        let query = self.0.unwrap_or_default().as_bytes();
        let mut values = form_urlencoded::parse(query).filter(|(key, _)| key == name);
        let value = values.next().map(|(_, value)| value);
        match values.next() {
            None => Ok(value),
            Some(_) => Err(RequestError::Repeated(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(query: &str) -> Result<(String, Dialect), RequestError> {
        let (name, dialect) = Query(Some(query)).name()?;
        Ok((name.into_owned(), dialect))
    }

    #[test]
    fn a_name_is_decoded_by_the_rules_of_its_form() {
        let listed = |name: &str| Ok((name.to_owned(), Dialect::Listed));
        let bare = |name: &str| Ok((name.to_owned(), Dialect::Bare));
        assert_eq!(name("peer_name=a+b%2Bc%C3%A9"), listed("a b+cé"));
        assert_eq!(name("x=1&peer_name=a"), listed("a"));
        assert_eq!(name("peer_name=%ff"), listed("\u{fffd}"));
        assert_eq!(name("user@host+x%20y"), bare("user@host+x y"));
        assert_eq!(name("peer_name"), bare("peer_name"));
    }

    #[test]
    fn a_sign_in_without_a_name_is_refused() {
        for query in ["", "peer_name=", "peer_id=1", "=", "&="] {
            assert_eq!(name(query), Err(RequestError::MissingName), "{query}");
        }
        assert_eq!(Query(None).name().unwrap_err(), RequestError::MissingName);
        assert_eq!(
            name("peer_name=a&peer_name=b"),
            Err(RequestError::Repeated("peer_name"))
        );
    }

    #[test]
    fn a_number_is_decimal_and_may_be_missing() {
        let number = |query| Query(Some(query)).number("ack");
        assert_eq!(number("peer_id=1"), Ok(None));
        assert_eq!(number("ack=0"), Ok(Some(0)));
        assert_eq!(number("ack=18446744073709551615"), Ok(Some(u64::MAX)));
        assert_eq!(number("ack=1&ack=1"), Err(RequestError::Repeated("ack")));
        for value in ["", "-1", "%2B1", "1.0", "x", "18446744073709551616"] {
            let query = format!("ack={value}");
            let number = Query(Some(&query)).number("ack");
            assert_eq!(number, Err(RequestError::MalformedNumber("ack")), "{value}");
        }
    }

    #[test]
    fn an_id_is_a_positive_decimal_number_of_31_bits() {
        let id = |query| Query(Some(query)).peer_id("to").map(PeerId::get);
        assert_eq!(id("to=1"), Ok(1));
        assert_eq!(id("peer_id=5&to=2147483647"), Ok(2_147_483_647));
        assert_eq!(id("to=%31"), Ok(1));
        assert_eq!(id("peer_id=1"), Err(RequestError::MissingId("to")));
        assert_eq!(id("to=1&to=1"), Err(RequestError::Repeated("to")));
        let nonsense = [
            "",
            "0",
            "-1",
            "+1",
            "%201",
            "1.0",
            "1e3",
            "0x1",
            "2147483648",
            "99999999999",
            "00000000001",
            "NaN",
            "\u{661}",
            "1,2",
        ];
        for value in nonsense {
            let query = format!("to={}", value.replace('+', "%2B"));
            let id = Query(Some(&query)).peer_id("to");
            assert_eq!(id, Err(RequestError::MalformedId("to")), "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn no_query_makes_the_reader_panic(text in "([a-z_=&%+0-9]|peer_id=|peer_token=|%[0-9a-f]{2}|.){0,60}") {
            let query = Query(Some(&text));
            let _ = query.name();
            let _ = query.peer_id("peer_id");
            let _ = query.number("peer_id");
            let _ = query.token(&HeaderMap::new());
            let _ = query.first("peer_id");
        }
    }
}
