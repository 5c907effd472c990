//! What servers say in a stream, in order and out of it.

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::*;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

fn begin() -> Vec<u8> {
    message(b'W', &[0, 0, 0])
}

fn wal(start: u64, bytes: &[u8]) -> Vec<u8> {
    let header = [
        &b"w"[..],
        &start.to_be_bytes(),
        &0x0600_0000_u64.to_be_bytes(),
        &1_i64.to_be_bytes(),
    ];
    message(b'd', &[&header.concat(), bytes].concat())
}

fn keepalive(reply: u8) -> Vec<u8> {
    let end = 0x0600_0000_u64.to_be_bytes();
    message(
        b'd',
        &[&b"k"[..], &end, &1_i64.to_be_bytes(), &[reply]].concat(),
    )
}

fn next_timeline() -> Vec<u8> {
    let mut row = 2_u16.to_be_bytes().to_vec();
    for value in [&b"2"[..], b"0/5000100"] {
        row.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
        row.extend(value);
    }
    [
        message(b'T', &[0, 0]),
        message(b'D', &row),
        message(b'C', b"START_STREAMING\0"),
        message(b'C', b"START_REPLICATION\0"),
        message(b'Z', b"I"),
    ]
    .concat()
}

fn removed() -> Vec<u8> {
    [
        message(
            b'E',
            b"SERROR\0VERROR\0C58P01\0Mhas already been removed\0\0",
        ),
        message(b'Z', b"I"),
    ]
    .concat()
}

/// Everything that comes of a server that says `words` whatever it hears.
fn events(words: &[&[u8]]) -> Result<Vec<StreamEvent>, QueryError> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let words = words.concat();
    let server = std::thread::spawn(move || {
        let _ = theirs.write_all(&words);
        let _ = theirs.shutdown(std::net::Shutdown::Write);
        let _ = std::io::copy(&mut theirs, &mut std::io::sink());
    });
    let result = (|| {
        let mut connection = Connection::over_socket(ours, "15.14");
        let slot = "pitr".parse().unwrap();
        let start = Lsn::new(0x0500_0000);
        let mut stream = connection.start_streaming(Some(&slot), TimelineId::FIRST, start)?;
        stream.check_begun()?;
        stream.send_status(start, false)?;
        let mut events = Vec::new();
        loop {
            let event = stream.next_event(Wait::AtMost(Duration::from_secs(5)))?;
            let event = event.expect("the server has closed by then");
            let is_end = matches!(event, StreamEvent::TimelineEnded(_));
            events.push(event);
            if is_end {
                return Ok(events);
            }
        }
    })();
    server.join().unwrap();
    result
}

const ENDED: StreamEvent = StreamEvent::TimelineEnded(NextTimeline {
    timeline: match TimelineId::new(2) {
        Some(timeline) => timeline,
        None => TimelineId::FIRST,
    },
    start: Lsn::new(0x0500_0100),
});

#[test]
fn log_keepalives_and_the_end_of_a_timeline_come_in_order() {
    let events = events(&[
        &begin(),
        &wal(0x0500_0000, b"log"),
        // servers up to 14
        &message(b'd', b""),
        &keepalive(1),
        &message(b'c', b""),
        &next_timeline(),
    ]);
    let server_end = Lsn::new(0x0600_0000);
    assert_eq!(
        events.unwrap(),
        [
            StreamEvent::Wal {
                start: Lsn::new(0x0500_0000),
                server_end,
                bytes: Bytes::from_static(b"log"),
            },
            StreamEvent::Keepalive {
                server_end,
                reply_requested: true,
            },
            ENDED,
        ]
    );
}

#[test]
fn a_timeline_that_ends_where_we_would_begin_is_no_stream() {
    assert_eq!(events(&[&next_timeline()]).unwrap(), [ENDED]);
}

#[test]
fn that_the_log_was_removed_is_told_before_anything_is_taken_for_begun() {
    let error = events(&[&begin(), &removed()]).unwrap_err();
    assert_eq!(error.code(), Some("58P01"), "{error}");
}

#[test]
fn a_server_that_shuts_down_or_vanishes_is_lost_and_not_at_its_end() {
    for words in [
        vec![begin(), message(b'C', b"COPY 0\0")],
        vec![begin(), wal(0x0500_0000, b"log")],
        vec![begin(), wal(0x0500_0000, b"log")[..20].to_vec()],
    ] {
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let error = events(&words).unwrap_err();
        assert!(matches!(error, QueryError::Lost { .. }), "{error}");
    }
}

#[test]
fn what_is_no_stream_ends_the_connection() {
    for words in [
        vec![message(b'C', b"SELECT\0")],
        vec![begin(), message(b'd', b"x")],
        vec![begin(), message(b'Z', b"I")],
        vec![begin(), message(b'c', b""), message(b'Z', b"I")],
    ] {
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let error = events(&words).unwrap_err();
        assert!(matches!(error, QueryError::Protocol { .. }), "{error}");
    }
}

#[test]
fn a_stream_nobody_asked_for_is_not_taken_for_an_answer() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(&begin()).unwrap();
    let mut connection = Connection::over_socket(ours, "15.14");
    assert!(matches!(
        connection.identify_system(),
        Err(QueryError::Protocol { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_server_makes_the_stream_panic(bytes: Vec<u8>) {
        let _ = events(&[&begin(), &bytes]);
    }
}
