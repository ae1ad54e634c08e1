//! Tests of frames.

use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tungstenite::protocol::frame::{Frame, FrameSocket};

use super::*;

/// What a client sends, masked.
fn frame(opcode: u8, is_final: bool, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        is_final,
        opcode: OpCode::from(opcode),
        mask: Some([1, 2, 3, 4]),
        ..FrameHeader::default()
    };
    let mut bytes = Vec::new();
    let frame = Frame::from_payload(header, Bytes::copy_from_slice(payload));
    frame.format(&mut bytes).unwrap();
    bytes
}

async fn read(bytes: &[u8], limit: usize) -> Result<Message, Unreadable> {
    let mut reader = Reader::new(bytes, limit, Arc::default());
    reader.receive(&mut Fragments::default()).await
}

proptest! {
    #[test]
    fn a_message_is_read_whole_however_it_is_cut_into_frames_and_reads(
        text in ".{0,9000}",
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        step in 1usize..5000,
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.sort_unstable();
        let mut bytes = Vec::new();
        let mut start = 0;
        for (number, end) in cuts.iter().copied().chain([text.len()]).enumerate() {
            let opcode = if number == 0 { 1 } else { 0 };
            bytes.extend(frame(opcode, number == cuts.len(), &text.as_bytes()[start..end]));
            start = end;
        }
        // One that follows is read from the rest.
        bytes.extend(frame(9, true, b"ping"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async move {
            let (mut client, server) = tokio::io::duplex(step);
            let sending = tokio::spawn(async move { client.write_all(&bytes).await });
            let mut reader = Reader::new(server, 40_000, Arc::default());
            let mut fragments = Fragments::default();
            let message = reader.receive(&mut fragments).await;
            assert_eq!(message, Ok(Message::Text(text.into())));
            let ping = reader.receive(&mut fragments).await;
            assert_eq!(ping, Ok(Message::Ping("ping".into())));
            assert_eq!(reader.buffer.capacity(), 0);
            sending.await.unwrap().unwrap();
        });
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut reader = Reader::new(&bytes[..], 100, Arc::default());
        let mut fragments = Fragments::default();
        runtime.block_on(async {
            while reader.receive(&mut fragments).await.is_ok() {}
        });
    }
}

#[tokio::test]
async fn what_rfc_6455_forbids_is_refused() {
    let unmasked = [0x81, 1, b'x'];
    let reserved = [0xc1, 0x81, 0, 0, 0, 0, b'x'];
    let cases: [(&[u8], Unreadable); 9] = [
        (&unmasked, Unreadable::NotAFrame),
        (&reserved, Unreadable::NotAFrame),
        (&frame(3, true, b""), Unreadable::NotAFrame),
        (&frame(0, true, b"no beginning"), Unreadable::NotAFrame),
        (&frame(9, false, b""), Unreadable::NotAFrame),
        (&frame(9, true, &[0; 126]), Unreadable::NotAFrame),
        (&frame(8, true, b"x"), Unreadable::NotAFrame),
        (
            &frame(8, true, &1005u16.to_be_bytes()),
            Unreadable::NotAFrame,
        ),
        (&frame(1, true, b"\xff"), Unreadable::NotUtf8),
    ];
    for (bytes, error) in cases {
        assert_eq!(read(bytes, 1000).await, Err(error), "{bytes:?}");
    }
    let two = [frame(1, false, b"a"), frame(1, true, b"b")].concat();
    assert_eq!(read(&two, 1000).await, Err(Unreadable::NotAFrame));
    assert_eq!(read(&[0x81], 1000).await, Err(Unreadable::HungUp));
}

#[tokio::test]
async fn a_message_that_is_too_large_is_read_to_its_end_without_being_kept() {
    let limit = 10_000;
    let bytes = frame(2, true, &vec![0; limit]);
    assert!(
        matches!(read(&bytes, limit).await, Ok(Message::Binary(bytes)) if bytes.len() == limit)
    );
    let bytes = [frame(2, true, &vec![0; 4 * limit]), frame(1, true, b"next")].concat();
    let mut reader = Reader::new(&bytes[..], limit, Arc::default());
    let refused = reader.receive(&mut Fragments::default()).await;
    assert_eq!(refused, Err(Unreadable::TooLarge));
    let next = reader.receive(&mut Fragments::default()).await;
    assert_eq!(next, Ok(Message::Text("next".into())));
    // Beyond four times the limit it is not read any further.
    let bytes = frame(2, true, &vec![0; 4 * limit + 1]);
    assert_eq!(read(&bytes, limit).await, Err(Unreadable::TooLarge));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_come_whole_is_not_held_for_ever() {
    let (mut client, server) = tokio::io::duplex(4096);
    let mut reader = Reader::new(server, 4096, Arc::default());
    let mut fragments = Fragments::default();
    client.write_all(&frame(1, false, b"begun")).await.unwrap();
    let start = Instant::now();
    let signs = tokio::spawn(async move {
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            client.write_all(&frame(10, true, b"")).await.unwrap();
        }
    });
    let end = loop {
        match reader.receive(&mut fragments).await {
            Ok(message) => assert_eq!(message, Message::Pong),
            Err(error) => break error,
        }
    };
    assert_eq!(
        (end, start.elapsed()),
        (Unreadable::TooSlow, MESSAGE_PATIENCE)
    );
    signs.abort();
}

#[tokio::test]
async fn frames_are_written_whole_even_if_a_write_is_given_up() {
    let (client, server) = tokio::io::duplex(10);
    let mut writer = Writer::new(server);
    writer.text(["hello, ".into(), "world".into()]);
    writer.write_some().await.unwrap();
    assert!(!writer.is_written());
    writer.close(1013, "too slow");
    let written = tokio::spawn(async move {
        while !writer.is_written() {
            writer.write_some().await.unwrap();
        }
    });
    let mut bytes = Vec::new();
    let mut client = client;
    client.read_to_end(&mut bytes).await.unwrap();
    written.await.unwrap();
    let mut frames = FrameSocket::new(Cursor::new(bytes));
    let text = frames.read(None).unwrap().unwrap();
    assert_eq!(text.into_text().unwrap().as_str(), "hello, world");
    let close = frames.read(None).unwrap().unwrap();
    assert_eq!(close.payload(), b"\x03\xf5too slow");
}

#[tokio::test]
async fn the_parts_of_a_message_that_is_not_complete_are_counted_and_bounded() {
    let buffered = Buffered::new(85_000);
    let (mut client, server) = tokio::io::duplex(200_000);
    let mut reader = Reader::new(server, 200_000, buffered.clone());
    let mut fragments = Fragments::default();
    let part = vec![b'x'; 30_000];
    // A part of a frame counts as well as whole fragments.
    let fragment = frame(1, false, &part);
    let bytes = [&fragment[..], &frame(0, false, &part)[..20_000]].concat();
    client.write_all(&bytes).await.unwrap();
    let mut reading = tokio_test::task::spawn(reader.receive(&mut fragments));
    tokio_test::assert_pending!(reading.poll());
    assert!((50_000..85_000).contains(&buffered.bytes()), "{buffered:?}");
    // What would exceed the bound ends the socket.
    let bytes = [&frame(0, false, &part)[20_000..], &frame(0, false, &part)].concat();
    client.write_all(&bytes).await.unwrap();
    assert_eq!(reading.await, Err(Unreadable::OutOfMemory));
    drop(fragments);
    assert_eq!(buffered.bytes(), 0);
}

#[tokio::test]
async fn a_message_that_came_whole_is_not_counted() {
    let buffered = Buffered::new(0);
    let bytes = frame(1, true, b"short");
    let mut reader = Reader::new(&bytes[..], 1000, buffered);
    let read = reader.receive(&mut Fragments::default()).await;
    assert_eq!(read, Ok(Message::Text("short".into())));
}
