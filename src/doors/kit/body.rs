//! The bodies of requests and replies: reads a message from a request, and notices when a
//! reply is written.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::time::timeout;

use super::RequestError;
use crate::peer_list::{Buffered, Held, Lines, Receipt, UNCOUNTED};

/// A body that is too large is read and discarded up to this many times the limit before
/// it is refused: a client that is still sending when the answer comes sees a reset in
/// its place. Beyond that the connection ends.
const DISCARDED: usize = 4;

/// A body must be complete this long after its headers. This is generous (512 KiB at 9
/// kB/s), but a sender that stalls does not hold memory for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// At most this much memory is reserved because of a Content-Length alone.
const TRUSTED: usize = 64 * 1024;

/// A body that was read.
#[derive(Debug)]
pub(crate) struct Whole {
    pub bytes: Bytes,
    /// Counts it while this lives, if it did not come at once.
    #[cfg_attr(not(feature = "socketio"), expect(dead_code))]
    pub held: Option<Held>,
}

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read(
    body: Body,
    limit: usize,
    buffered: &Arc<Buffered>,
) -> Result<Whole, RequestError> {
    let read = timeout(PATIENCE, read_patiently(body, limit, buffered)).await;
    read.unwrap_or(Err(RequestError::BodyTooSlow))
}

async fn read_patiently(
    mut body: Body,
    limit: usize,
    buffered: &Arc<Buffered>,
) -> Result<Whole, RequestError> {
    let discarded = limit.saturating_mul(DISCARDED);
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > discarded {
        return Err(RequestError::TooLarge { limit });
    }
    // Copied out of the read buffer of the connection: a slice would keep all of the
    // buffer alive while the message waits in a mailbox that counts only its bytes.
    let mut bytes = Vec::with_capacity(announced.min(limit).min(TRUSTED));
    let mut length: usize = 0;
    let mut held: Option<Held> = None;
    loop {
        let frame = match body.frame().now_or_never() {
            Some(frame) => frame,
            None => {
                if bytes.capacity() > UNCOUNTED {
                    let held = held.get_or_insert_with(|| buffered.hold());
                    held.grow_to(bytes.capacity())?;
                }
                body.frame().await
            }
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| RequestError::BrokenBody)?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        length += data.len();
        if length <= limit {
            bytes.extend_from_slice(data);
        } else if length > discarded {
            return Err(RequestError::TooLarge { limit });
        }
    }
    if length > limit {
        return Err(RequestError::TooLarge { limit });
    }
    Ok(Whole {
        bytes: bytes.into_boxed_slice().into(),
        held,
    })
}

/// The lines of the list as the body of a reply, part by part. `receipt`: what to tell
/// when they are written.
pub(crate) fn lines(lines: Lines, receipt: Option<Receipt>) -> Body {
    match (lines.parts(), receipt) {
        ([whole], None) => Body::from(whole.clone()),
        (_, receipt) => Body::new(Written::new(lines, receipt)),
    }
}

/// A body in parts, which are not copied together.
#[cfg(feature = "socketio")]
pub(crate) fn parts(parts: Vec<Bytes>) -> Body {
    lines(parts.into_iter().collect(), None)
}

/// A body that notices when it is written: hyper drops a body once it has all of it, and
/// writes it right after that.
struct Written {
    lines: Lines,
    /// How many parts hyper has taken.
    taken: usize,
    left: usize,
    receipt: Option<Receipt>,
}

impl Written {
    fn new(lines: Lines, receipt: Option<Receipt>) -> Self {
        let left = lines.len();
        Self {
            // hyper does not poll a body without bytes.
            taken: if left == 0 { lines.parts().len() } else { 0 },
            left,
            lines,
            receipt,
        }
    }
}

impl HttpBody for Written {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = self.lines.parts().get(self.taken).cloned();
        Poll::Ready(part.map(|part| {
            self.taken += 1;
            self.left -= part.len();
            Ok(Frame::data(part))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.taken == self.lines.parts().len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if self.is_end_stream()
            && let Some(receipt) = self.receipt.take()
        {
            receipt.written();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};
    use tokio_test::{assert_pending, task};

    use super::*;

    fn parts(parts: &[usize]) -> Vec<Result<Bytes, Infallible>> {
        let bytes = |length: &usize| Ok(vec![b'x'; *length].into());
        parts.iter().map(bytes).collect()
    }

    #[tokio::test]
    async fn what_has_come_of_a_body_counts_while_the_rest_is_awaited() {
        let buffered = Buffered::new(20_000);
        let begun = stream::iter(parts(&[6000, 5000])).chain(stream::pending());
        let mut reading = task::spawn(read(Body::from_stream(begun), 18_000, &buffered));
        assert_pending!(reading.poll());
        assert!((11_000..18_000).contains(&buffered.bytes()), "{buffered:?}");
        // The next one finds no room.
        let begun = stream::iter(parts(&[12_000])).chain(stream::pending());
        let mut other = task::spawn(read(Body::from_stream(begun), 18_000, &buffered));
        let refused = tokio_test::assert_ready!(other.poll());
        assert_eq!(refused.err(), Some(RequestError::OutOfMemory));
        drop(reading);
        assert_eq!(buffered.bytes(), 0);
    }

    #[tokio::test]
    async fn a_small_body_is_never_refused_however_it_comes() {
        let heartbeat = stream::iter(parts(&[1])).chain(stream::pending());
        let buffered = Buffered::new(0);
        let mut reading = task::spawn(read(Body::from_stream(heartbeat), 9000, &buffered));
        assert_pending!(reading.poll());
    }

    #[tokio::test]
    async fn a_body_that_comes_at_once_is_read_even_if_nothing_is_left() {
        let body = Body::from_stream(stream::iter(parts(&[300, 200])));
        let whole = read(body, 9000, &Buffered::new(0)).await.unwrap();
        assert_eq!(whole.bytes.len(), 500);
        assert!(whole.held.is_none());
    }
}
