//! Servers that do not keep to the protocol.

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use pitr_core::Lsn;
use proptest::prelude::*;

use super::*;
use crate::query_error::QueryError;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
    for value in values {
        match value {
            None => body.extend((-1_i32).to_be_bytes()),
            Some(bytes) => {
                body.extend(i32::try_from(bytes.len()).unwrap().to_be_bytes());
                body.extend(*bytes);
            }
        }
    }
    message(b'D', &body)
}

fn description() -> Vec<u8> {
    message(b'T', &[0, 0])
}

fn complete() -> Vec<u8> {
    message(b'C', b"SELECT\0")
}

/// Position and one tablespace beside the data directory.
fn beginning() -> Vec<u8> {
    [
        description(),
        row(&[Some(b"0/2000028"), Some(b"1")]),
        complete(),
        description(),
        row(&[Some(b"16385"), Some(b"/space"), Some(b"10")]),
        row(&[None, None, Some(b"20")]),
        complete(),
    ]
    .concat()
}

fn end() -> Vec<u8> {
    [
        description(),
        row(&[Some(b"0/2000100"), Some(b"1")]),
        complete(),
        complete(),
        message(b'Z', b"I"),
    ]
    .concat()
}

fn copy(bytes: &[u8]) -> Vec<u8> {
    message(b'd', bytes)
}

type Taken = (Vec<(String, Vec<u8>)>, BackupEnd);

/// Goes through a backup of a server that says `words` whatever it is asked.
fn take(version: &str, words: &[u8]) -> Result<Taken, BackupError> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let words = words.to_vec();
    let server = std::thread::spawn(move || {
        let _ = theirs.write_all(&words);
        let _ = theirs.shutdown(std::net::Shutdown::Write);
        // reads what is asked, so that asking does not fail
        let _ = io::copy(&mut theirs, &mut io::sink());
    });
    let result = (|| {
        let mut connection = Connection::over_socket(ours, version);
        let mut backup = connection.base_backup(&BaseBackupOptions::default())?;
        let mut members = Vec::new();
        while let Some(member) = backup.next_member()? {
            let (name, mut data) = match member {
                BackupMember::Archive { tablespace, data } => (tablespace.archive_name(), data),
                BackupMember::Manifest(data) => ("manifest".to_owned(), data),
            };
            let mut bytes = Vec::new();
            data.read_to_end(&mut bytes)
                .map_err(|error| BackupError::from_io(error).unwrap())?;
            members.push((name, bytes));
        }
        Ok((members, backup.finish()?))
    })();
    server.join().unwrap();
    result
}

fn members(list: &[(&str, &[u8])]) -> Vec<(String, Vec<u8>)> {
    list.iter()
        .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()))
        .collect()
}

#[test]
fn both_protocols_give_the_same_members() {
    let open = message(b'H', &[0, 0, 0]);
    let close = message(b'c', &[]);
    let single = [
        beginning(),
        open.clone(),
        copy(b"n16385.tar\0/space\0"),
        copy(b"dab"),
        copy(b"p\0\0\0\0\0\0\0\x02"),
        copy(b"d"),
        copy(b"dc"),
        copy(b"nbase.tar\0\0"),
        copy(b"m"),
        copy(b"d{}"),
        close.clone(),
        end(),
    ]
    .concat();
    let many = [
        beginning(),
        open.clone(),
        copy(b"ab"),
        copy(b""),
        copy(b"c"),
        close.clone(),
        open.clone(),
        close.clone(),
        open,
        copy(b"{}"),
        close,
        end(),
    ]
    .concat();
    let expected = members(&[
        ("16385.tar", b"abc"),
        ("base.tar", b""),
        ("manifest", b"{}"),
    ]);
    for (version, words) in [("15.1", single), ("14.1", many)] {
        let (found, end) = take(version, &words).unwrap();
        assert_eq!(found, expected, "{version}");
        assert_eq!(end.lsn, Lsn::new(0x200_0100));
        // cut off anywhere, it is an error
        for length in 0..words.len() {
            assert!(
                take(version, &words[..length]).is_err(),
                "{version} {length}"
            );
        }
    }
}

#[test]
fn a_backup_that_lacks_something_is_none() {
    let open = message(b'H', &[0, 0, 0]);
    let close = message(b'c', &[]);
    let with = |parts: &[&[u8]]| {
        let parts: Vec<u8> = parts.iter().flat_map(|part| copy(part)).collect();
        [beginning(), open.clone(), parts, close.clone(), end()].concat()
    };
    let space: &[u8] = b"n16385.tar\0\0";
    let base: &[u8] = b"nbase.tar\0\0";
    assert!(take("17.0", &with(&[space, base, b"m"])).is_ok());
    assert!(matches!(
        take("17.0", &with(&[base, b"m"])),
        Err(BackupError::Incomplete {
            received: 1,
            expected: 2
        })
    ));
    assert!(matches!(
        take("17.0", &with(&[space, base])),
        Err(BackupError::NoManifest)
    ));
    assert!(matches!(
        take("17.0", &with(&[b"n../../etc/passwd\0\0"])),
        Err(BackupError::UnknownArchive { .. })
    ));
    let errors: [&[&[u8]]; 6] = [
        &[space, space, base],
        &[space, base, b"m", b"m"],
        &[b"dx", space, base],
        &[b""],
        &[b"p\0"],
        &[b"?"],
    ];
    for parts in errors {
        let error = take("17.0", &with(parts)).unwrap_err();
        assert!(
            matches!(error, BackupError::Query(QueryError::Protocol { .. })),
            "{error}"
        );
    }
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let tags = prop::sample::select(b"TDCHcdEZNSARWKGnst1I".to_vec());
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        Just(b"n16385.tar\0\0".to_vec()),
        Just(b"nbase.tar\0\0".to_vec()),
        Just(b"dxyz".to_vec()),
        Just(b"m".to_vec()),
        Just(vec![0, 0, 0]),
        Just(b"SERROR\0C0A000\0Mno\0\0".to_vec()),
    ];
    prop_oneof![
        (tags, body).prop_map(|(tag, body)| message(tag, &body)),
        Just(end()),
        Just(description()),
    ]
}

proptest! {
    #[test]
    fn no_server_makes_us_panic_or_hang(
        begins in any::<bool>(),
        version in prop::sample::select(vec!["13.1", "14.1", "15.1", "18.1"]),
        words in prop::collection::vec(any_message(), 0..12),
        garbage in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut bytes = if begins { beginning() } else { Vec::new() };
        bytes.extend(words.concat());
        bytes.extend(garbage);
        let _ = take(version, &bytes);
    }
}
