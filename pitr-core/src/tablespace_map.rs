//! `tablespace_map`: where a backup's tablespaces lie.

use nom::Parser;
use nom::bytes::complete::tag;
use nom::combinator::rest;

use crate::line::{decimal_u32, excerpt};
use crate::postgres_major::PostgresMajor;

/// The file `tablespace_map` of a base backup.
///
/// At the start of recovery the server makes the links of `pg_tblspc` anew
/// from it: rewriting this file is how a tablespace is moved. No tablespace
/// comes twice.
///
/// Source: `read_tablespace_map`, src/backend/access/transam/xlogrecovery.c.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TablespaceMap {
    entries: Vec<TablespaceMapEntry>,
}

/// One tablespace: a line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceMapEntry {
    /// Object identifier of the tablespace, and name of its link in `pg_tblspc`. Not zero.
    pub oid: u32,
    /// Where it lies. Bytes as the file system has them; not empty, without NUL, not checked otherwise.
    pub path: Vec<u8>,
}

impl TablespaceMap {
    /// Checks a list of tablespaces.
    ///
    /// # Errors
    /// `Entry` for one with the oid 0, an empty path or a NUL in it; `Twice`
    /// for one that was there before.
    pub fn new(entries: Vec<TablespaceMapEntry>) -> Result<Self, TablespaceMapError> {
        let mut seen = std::collections::BTreeSet::new();
        for (index, entry) in entries.iter().enumerate() {
            if entry.oid == 0 || entry.path.is_empty() || entry.path.contains(&0) {
                let text = format!("{} {}", entry.oid, String::from_utf8_lossy(&entry.path));
                return Err(TablespaceMapError::Entry {
                    line: index + 1,
                    text: crate::text::excerpt(&text),
                });
            }
            if !seen.insert(entry.oid) {
                return Err(TablespaceMapError::Twice { oid: entry.oid });
            }
        }
        Ok(TablespaceMap { entries })
    }

    /// Reads the file of PostgreSQL 14 and later.
    ///
    /// One line `OID path` for each tablespace, with a backslash before each
    /// newline, carriage return and backslash in the path.
    ///
    /// # Errors
    /// `Entry` for a line that is not of this form; `Unterminated` if the last
    /// line lacks its newline; `Twice` if a tablespace comes twice.
    ///
    /// Source: `read_tablespace_map`, src/backend/access/transam/xlogrecovery.c.
    pub fn parse(bytes: &[u8]) -> Result<Self, TablespaceMapError> {
        Self::read(bytes, true)
    }

    /// Reads the file of this major version.
    ///
    /// 13 has no backslash before a backslash; from 14 on this is [`TablespaceMap::parse`].
    ///
    /// # Errors
    /// As [`TablespaceMap::parse`].
    ///
    /// Source: `read_tablespace_map`, src/backend/access/transam/xlog.c of 13.
    pub fn parse_for(major: PostgresMajor, bytes: &[u8]) -> Result<Self, TablespaceMapError> {
        Self::read(bytes, escapes_backslash(major))
    }

    fn read(bytes: &[u8], escapes_backslash: bool) -> Result<Self, TablespaceMapError> {
        let mut entries = Vec::new();
        let mut line: Vec<u8> = Vec::new();
        let mut escaped = false;
        let mut following = bytes.iter().skip(1);
        for &byte in bytes {
            let next = following.next();
            match byte {
                b'\n' | b'\r' if !escaped => {
                    // a carriage return before the newline makes an empty line
                    if !line.is_empty() {
                        let number = entries.len() + 1;
                        let read = entry(&line);
                        entries.push(read.ok_or_else(|| TablespaceMapError::Entry {
                            line: number,
                            text: excerpt(&line),
                        })?);
                        line.clear();
                    }
                }
                b'\\' if !escaped && (escapes_backslash || matches!(next, Some(b'\n' | b'\r'))) => {
                    escaped = true
                }
                _ => {
                    line.push(byte);
                    escaped = false;
                }
            }
        }
        if escaped || !line.is_empty() {
            return Err(TablespaceMapError::Unterminated {
                text: excerpt(&line),
            });
        }
        TablespaceMap::new(entries)
    }

    /// The file as PostgreSQL 14 and later writes it; empty if there are no tablespaces (then there is no such file).
    ///
    /// Source: `do_pg_backup_start`, src/backend/access/transam/xlog.c.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.write(true)
    }

    /// The file as this major version writes it and reads it back; from 14 on [`TablespaceMap::to_bytes`].
    pub fn to_bytes_for(&self, major: PostgresMajor) -> Vec<u8> {
        self.write(escapes_backslash(major))
    }

    fn write(&self, escapes_backslash: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in &self.entries {
            bytes.extend_from_slice(entry.oid.to_string().as_bytes());
            bytes.push(b' ');
            for &byte in &entry.path {
                if matches!(byte, b'\n' | b'\r') || (byte == b'\\' && escapes_backslash) {
                    bytes.push(b'\\');
                }
                bytes.push(byte);
            }
            bytes.push(b'\n');
        }
        bytes
    }

    /// The tablespaces, in the order of the file.
    pub fn entries(&self) -> &[TablespaceMapEntry] {
        &self.entries
    }

    /// Where the tablespace `oid` lies.
    pub fn path(&self, oid: u32) -> Option<&[u8]> {
        self.entries
            .iter()
            .find(|entry| entry.oid == oid)
            .map(|entry| entry.path.as_slice())
    }
}

fn escapes_backslash(major: PostgresMajor) -> bool {
    major.get() >= 14
}

fn entry(line: &[u8]) -> Option<TablespaceMapEntry> {
    let (_, (oid, _, path)) = (decimal_u32, tag(" "), rest).parse(line).ok()?;
    let path: &[u8] = path;
    (oid != 0 && !path.is_empty() && !path.contains(&0)).then(|| TablespaceMapEntry {
        oid,
        path: path.to_vec(),
    })
}

/// Why bytes are not a tablespace map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TablespaceMapError {
    /// A line that is not an OID, a space and a path.
    #[error("entry {line} of tablespace_map is not an OID and a path: \"{text}\"")]
    Entry {
        /// Entry, from 1.
        line: usize,
        /// Its text without escapes (shortened if long).
        text: String,
    },
    /// The file ends within a line.
    #[error("tablespace_map ends within a line: \"{text}\"")]
    Unterminated {
        /// What there is of the line (shortened if long).
        text: String,
    },
    /// The same tablespace on two lines.
    #[error("tablespace_map names tablespace {oid} twice")]
    Twice {
        /// The tablespace.
        oid: u32,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(oid: u32, path: &[u8]) -> TablespaceMapEntry {
        TablespaceMapEntry {
            oid,
            path: path.to_vec(),
        }
    }

    #[test]
    fn a_servers_file_is_read_and_written_byte_for_byte() {
        let text = b"16384 /srv/fast disk/ts1\n16390 /srv/odd\\\nname\\\\with\\\rescapes\n";
        let map = TablespaceMap::parse(text).unwrap();
        assert_eq!(
            map.entries(),
            [
                entry(16384, b"/srv/fast disk/ts1"),
                entry(16390, b"/srv/odd\nname\\with\rescapes")
            ]
        );
        assert_eq!(map.path(16384), Some(&b"/srv/fast disk/ts1"[..]));
        assert_eq!(map.path(1), None);
        assert_eq!(map.to_bytes(), text);
    }

    #[test]
    fn postgres_13_knows_no_escaped_backslash() {
        let major = PostgresMajor::new(13).unwrap();
        let text = b"16384 /srv/odd\\ \\\\ space\\\nline\n";
        let map = TablespaceMap::parse_for(major, text).unwrap();
        assert_eq!(
            map.entries(),
            [entry(16384, b"/srv/odd\\ \\\\ space\nline")]
        );
        assert_eq!(map.to_bytes_for(major), text);
    }

    #[test]
    fn an_empty_map_is_an_empty_file() {
        assert_eq!(TablespaceMap::parse(b"").unwrap(), TablespaceMap::default());
        assert!(TablespaceMap::default().to_bytes().is_empty());
    }

    #[test]
    fn carriage_returns_and_needless_escapes_are_read_as_the_server_does() {
        let map = TablespaceMap::parse(b"16384 /srv/\\a\r\n\n16385 /srv/b\r\n").unwrap();
        assert_eq!(
            map.entries(),
            [entry(16384, b"/srv/a"), entry(16385, b"/srv/b")]
        );
    }

    #[test]
    fn what_the_server_would_refuse_is_refused() {
        for text in [
            &b"16384 /srv/ts1"[..],
            b"16384 /srv/ts1\\\n",
            b"16384 /srv/ts1\n\\",
            b"16384\n",
            b"16384 \n",
            b" /srv/ts1\n",
            b"x /srv/ts1\n",
            b"-1 /srv/ts1\n",
            b"4294967296 /srv/ts1\n",
            b"0 /srv/ts1\n",
            b"16384 /srv/\0ts1\n",
        ] {
            assert!(
                TablespaceMap::parse(text).is_err(),
                "{:?}",
                String::from_utf8_lossy(text)
            );
        }
        assert_eq!(
            TablespaceMap::parse(b"5 /a\n5 /b\n"),
            Err(TablespaceMapError::Twice { oid: 5 })
        );
    }

    #[test]
    fn a_map_that_could_not_be_read_back_cannot_be_made() {
        assert!(TablespaceMap::new(vec![entry(1, b"")]).is_err());
        assert!(TablespaceMap::new(vec![entry(1, b"/a\0b")]).is_err());
        assert!(TablespaceMap::new(vec![entry(0, b"/a")]).is_err());
    }

    proptest! {
        #[test]
        fn any_path_round_trips(paths in proptest::collection::vec(proptest::collection::vec(1u8.., 1..40), 0..4)) {
            let entries = paths.iter().zip(1u32..).map(|(path, oid)| entry(oid, path)).collect();
            let map = TablespaceMap::new(entries).unwrap();
            prop_assert_eq!(TablespaceMap::parse(&map.to_bytes()).unwrap(), map);
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = TablespaceMap::parse(&bytes);
        }
    }
}
