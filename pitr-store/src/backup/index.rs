//! Which file of a base backup lies where.

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::info::PartInfo;
use super::member::BLOCK_BYTES;
use super::member_path::MemberPath;
use super::part_name::PartName;

/// One regular file of a part.
///
/// JSON: `["base/5/1259", 1048576, 106496, "e3069283"]`. A path that is not
/// UTF-8 stands as `{"hex": "..."}` in place of the string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// Path as the backup manifest has it: `pg_tblspc/<oid>/` in front of a
    /// tablespace's files.
    pub path: MemberPath,
    /// Offset of the file's data in the decompressed tar, in bytes.
    pub offset: u64,
    /// Length of the file's data in bytes.
    pub length: u64,
    /// CRC-32C of the file's data.
    pub crc32c: u32,
}

/// The files of one part, in the order of its tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartIndex {
    /// The part.
    pub name: PartName,
    /// Its regular files by ascending offset.
    pub files: Vec<IndexEntry>,
}

/// Where every regular file of a base backup lies, checked for contradictions.
#[derive(Clone, PartialEq, Eq)]
pub struct BackupIndex {
    parts: Vec<PartIndex>,
    /// Part and entry of each file, sorted by path.
    by_path: Vec<(u32, u32)>,
}

/// Why an index contradicts itself or the parts that it is about.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IndexError {
    /// The index does not name the same parts in the same order.
    #[error("index and list of parts disagree: {index_parts} and {parts} parts, or other names")]
    Parts {
        /// Parts in the index.
        index_parts: usize,
        /// Parts in the list.
        parts: usize,
    },
    /// A part has another number of files.
    #[error("index has {found} files in {part}, the list of parts {expected}")]
    FileCount {
        /// The part.
        part: PartName,
        /// Files in the list of parts.
        expected: u64,
        /// Files in the index.
        found: u64,
    },
    /// A file does not lie where a file of this part can.
    #[error("index places \"{path}\" at {offset}, {length} bytes, which cannot be in {part}")]
    Place {
        /// The part.
        part: PartName,
        /// The file.
        path: String,
        /// Its offset.
        offset: u64,
        /// Its length.
        length: u64,
    },
    /// The same path twice.
    #[error("index has \"{path}\" twice")]
    Duplicate {
        /// The path.
        path: String,
    },
    /// More files or parts than this program counts.
    #[error("index has too many entries")]
    TooLarge,
}

impl BackupIndex {
    /// Checks `files` against the parts and against each other: same parts,
    /// same counts, offsets at block boundaries, ascending and inside the
    /// part, paths unique and of the right archive.
    ///
    /// # Errors
    /// Any [`IndexError`].
    pub fn new(files: Vec<PartIndex>, parts: &[PartInfo]) -> Result<Self, IndexError> {
        let same = files.len() == parts.len()
            && files
                .iter()
                .zip(parts)
                .all(|(index, part)| index.name == part.name);
        if !same {
            return Err(IndexError::Parts {
                index_parts: files.len(),
                parts: parts.len(),
            });
        }
        for (index, part) in files.iter().zip(parts) {
            check_part(index, part)?;
        }
        let mut by_path = Vec::with_capacity(files.iter().map(|part| part.files.len()).sum());
        for (part_number, part) in files.iter().enumerate() {
            let part_number = u32::try_from(part_number).map_err(|_| IndexError::TooLarge)?;
            for entry_number in 0..part.files.len() {
                let entry_number = u32::try_from(entry_number).map_err(|_| IndexError::TooLarge)?;
                by_path.push((part_number, entry_number));
            }
        }
        let mut index = Self {
            parts: files,
            by_path: Vec::new(),
        };
        by_path.sort_unstable_by(|a, b| index.path_of(*a).cmp(&index.path_of(*b)));
        if let Some(twice) = by_path
            .windows(2)
            .find(|pair| index.path_of(pair[0]) == index.path_of(pair[1]))
        {
            let path = index.path_of(twice[0]);
            return Err(IndexError::Duplicate {
                path: path.map(MemberPath::to_string).unwrap_or_default(),
            });
        }
        index.by_path = by_path;
        Ok(index)
    }

    /// The parts in order, with their files in order.
    #[must_use]
    pub fn parts(&self) -> &[PartIndex] {
        &self.parts
    }

    /// The files of one part.
    #[must_use]
    pub fn part(&self, name: &PartName) -> Option<&PartIndex> {
        self.parts.iter().find(|part| part.name == *name)
    }

    /// Where the file with this manifest path lies.
    #[must_use]
    pub fn find(&self, path: &MemberPath) -> Option<(PartName, &IndexEntry)> {
        let place = self
            .by_path
            .binary_search_by(|place| self.path_of(*place).cmp(&Some(path)))
            .ok()?;
        let (part, entry) = self.entry_of(*self.by_path.get(place)?)?;
        Some((part.name, entry))
    }

    /// The files below `folder`, in the order of their paths.
    pub fn below<'a>(
        &'a self,
        folder: &MemberPath,
    ) -> impl Iterator<Item = (PartName, &'a IndexEntry)> + use<'a> {
        let mut prefix = folder.as_bytes().to_vec();
        if !folder.is_root() {
            prefix.push(b'/');
        }
        let first = self.by_path.partition_point(|place| {
            self.path_of(*place)
                .is_some_and(|path| path.as_bytes() < prefix.as_slice())
        });
        let rest = self.by_path.get(first..).unwrap_or_default();
        rest.iter()
            .map_while(|place| self.entry_of(*place))
            .take_while(move |(_, entry)| entry.path.as_bytes().starts_with(&prefix))
            .map(|(part, entry)| (part.name, entry))
    }

    /// All files, in the order of the parts and of their tars.
    pub fn files(&self) -> impl Iterator<Item = (PartName, &IndexEntry)> {
        self.parts
            .iter()
            .flat_map(|part| part.files.iter().map(|entry| (part.name, entry)))
    }

    /// Number of files.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_path.len()
    }

    /// Whether there is no file at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_path.is_empty()
    }

    fn entry_of(&self, (part, entry): (u32, u32)) -> Option<(&PartIndex, &IndexEntry)> {
        let part = self.parts.get(usize::try_from(part).ok()?)?;
        Some((part, part.files.get(usize::try_from(entry).ok()?)?))
    }

    fn path_of(&self, place: (u32, u32)) -> Option<&MemberPath> {
        self.entry_of(place).map(|(_, entry)| &entry.path)
    }
}

impl std::fmt::Debug for BackupIndex {
    /// In short: an index can have hundreds of thousands of files.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupIndex")
            .field("parts", &self.parts.len())
            .field("files", &self.len())
            .finish()
    }
}

fn check_part(index: &PartIndex, part: &PartInfo) -> Result<(), IndexError> {
    let found = index.files.len() as u64;
    if found != part.files {
        return Err(IndexError::FileCount {
            part: part.name,
            expected: part.files,
            found,
        });
    }
    let block = BLOCK_BYTES as u64;
    let prefix = part.name.archive().manifest_path(&MemberPath::root());
    let mut free_from = 0;
    for file in &index.files {
        let end = file.offset.checked_add(file.length);
        // a header before the data, end blocks after it
        let fits = file.offset % block == 0
            && file.offset >= block
            && file.offset - block >= free_from
            && end.is_some_and(|end| end <= part.raw_bytes.saturating_sub(2 * block))
            && file.path.is_below(&prefix);
        match end {
            Some(end) if fits => free_from = end,
            _ => {
                return Err(IndexError::Place {
                    part: index.name,
                    path: file.path.to_string(),
                    offset: file.offset,
                    length: file.length,
                });
            }
        }
    }
    Ok(())
}

impl Serialize for IndexEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(4)?;
        tuple.serialize_element(&PathText(&self.path))?;
        tuple.serialize_element(&self.offset)?;
        tuple.serialize_element(&self.length)?;
        tuple.serialize_element(&format_args!("{:08x}", self.crc32c))?;
        tuple.end()
    }
}

struct PathText<'a>(&'a MemberPath);

impl Serialize for PathText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(text) = self.0.as_str() {
            return serializer.serialize_str(text);
        }
        let hex: String = self
            .0
            .as_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        serializer.collect_map([("hex", hex)])
    }
}

impl<'de> Deserialize<'de> for IndexEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntryVisitor;

        impl<'de> Visitor<'de> for EntryVisitor {
            type Value = IndexEntry;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("[path, offset, length, CRC-32C]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut entry: A) -> Result<IndexEntry, A::Error> {
                let missing = |at: usize| de::Error::invalid_length(at, &self);
                let path: OwnedPath = entry.next_element()?.ok_or_else(|| missing(0))?;
                let offset = entry.next_element()?.ok_or_else(|| missing(1))?;
                let length = entry.next_element()?.ok_or_else(|| missing(2))?;
                let crc: Crc = entry.next_element()?.ok_or_else(|| missing(3))?;
                // a later minor revision may add fields
                while entry.next_element::<de::IgnoredAny>()?.is_some() {}
                Ok(IndexEntry {
                    path: path.0,
                    offset,
                    length,
                    crc32c: crc.0,
                })
            }
        }

        deserializer.deserialize_seq(EntryVisitor)
    }
}

struct OwnedPath(MemberPath);

impl<'de> Deserialize<'de> for OwnedPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PathVisitor;

        impl<'de> Visitor<'de> for PathVisitor {
            type Value = OwnedPath;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a relative path, or its bytes as {\"hex\": ...}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OwnedPath, E> {
                canonical(text.as_bytes())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OwnedPath, A::Error> {
                let entry = map.next_entry::<String, String>()?;
                let Some((_, hex)) = entry.filter(|(key, _)| key == "hex") else {
                    return Err(de::Error::missing_field("hex"));
                };
                let digits = hex.as_bytes().chunks_exact(2);
                let odd = !digits.remainder().is_empty();
                let bytes: Option<Vec<u8>> = digits
                    .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
                    .collect();
                match bytes {
                    Some(bytes) if !odd => canonical(&bytes),
                    _ => Err(de::Error::custom("bytes of a path are not hexadecimal")),
                }
            }
        }

        fn canonical<E: de::Error>(bytes: &[u8]) -> Result<OwnedPath, E> {
            let path = MemberPath::parse(bytes).map_err(E::custom)?;
            if path.as_bytes() != bytes {
                return Err(E::custom(format_args!(
                    "path \"{path}\" is not in its plain form"
                )));
            }
            Ok(OwnedPath(path))
        }

        deserializer.deserialize_any(PathVisitor)
    }
}

struct Crc(u32);

impl<'de> Deserialize<'de> for Crc {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = u32::from_str_radix(&text, 16).ok().filter(|_| digits);
        value
            .map(Self)
            .ok_or_else(|| de::Error::custom("CRC-32C is not eight hexadecimal digits"))
    }
}
