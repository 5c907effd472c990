//! What was stored ahead, written down for the calls that come for it.
//!
//! One small file for each cluster in each repository. It is written anew by every
//! batch, once what it speaks of is durable, and it is safe to lose: without it a
//! push compares contents. What is wrong with it in any way is not believed.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pitr_core::{SystemIdentifier, WalFileName};
use pitr_store::wal::{ArchiveAddress, Fingerprint, Fingerprinter, Recollected, Recollection};
use pitr_store::{Encoding, ObjectKey, ObjectTrace};

const FIRST_LINE: &str = "pitr stored objects 1";

/// Objects in a file; the oldest are forgotten first.
const MOST_OBJECTS: usize = 256;

/// No file that was written here is as long.
const MOST_BYTES: u64 = 1 << 20;

/// A file that nobody has written for so long belongs to a cluster or a repository
/// that is gone.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30 * 24 * 3600);

const SUFFIX: &str = ".stored";

/// The files of all clusters and repositories.
#[derive(Debug)]
pub(crate) struct Record {
    folder: PathBuf,
    read: Mutex<HashMap<PathBuf, Option<Arc<Stored>>>>,
}

/// What one file says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    location: String,
    created: String,
    objects: Vec<(ObjectKey, Recollected)>,
}

impl Record {
    /// In the folder `directory`. Touches nothing.
    pub(crate) fn in_directory(directory: &Path) -> Self {
        Self {
            folder: directory.join("look-ahead"),
            read: Mutex::default(),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the folder, where it is not there, and makes sure that nobody else can
    /// write into it.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(crate) fn prepare(&self) -> Result<(), String> {
        let folder = self.folder.display();
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder);
        made.map_err(|error| format!("could not make \"{folder}\": {error}"))?;
        let failed = |error: io::Error| format!("could not use \"{folder}\": {error}");
        let metadata = std::fs::symlink_metadata(&self.folder).map_err(failed)?;
        let owner = rustix::process::geteuid().as_raw();
        if !metadata.is_dir() || metadata.uid() != owner || metadata.mode() & 0o022 != 0 {
            return Err(format!(
                "\"{folder}\" is not a private folder of the user that archives"
            ));
        }
        rustix::fs::access(&self.folder, rustix::fs::Access::WRITE_OK)
            .map_err(|error| failed(error.into()))
    }

    /// Whether `name` was stored ahead in the repository at `location`, as far as is
    /// written down. Proves nothing yet.
    pub(crate) fn mentions(
        &self,
        location: &str,
        system_identifier: SystemIdentifier,
        name: &WalFileName,
    ) -> bool {
        let name = name.to_string();
        self.stored(location, system_identifier)
            .is_some_and(|stored| {
                let mut keys = stored.objects.iter().map(|(key, _)| key.file_name());
                keys.any(|key| Encoding::split(key).0 == name)
            })
    }

    /// Writes down `objects`, which are durable, beside what is known of others.
    ///
    /// # Errors
    /// They are not written down; what was there still is, or is lost.
    pub(crate) fn add(
        &self,
        address: &ArchiveAddress,
        objects: Vec<(ObjectKey, Recollected)>,
    ) -> io::Result<()> {
        let path = self.path(&address.location, address.system_identifier);
        let mut all = read(&path)
            .filter(|stored| stored.location == address.location)
            .filter(|stored| stored.created == address.created)
            .map_or_else(Vec::new, |stored| stored.objects);
        all.retain(|(key, _)| objects.iter().all(|(new, _)| new != key));
        all.extend(objects);
        all.drain(..all.len().saturating_sub(MOST_OBJECTS));
        let stored = Stored {
            location: address.location.clone(),
            created: address.created.clone(),
            objects: all,
        };
        self.replace(&path, &stored.to_text())?;
        self.forget_the_forgotten();
        Ok(())
    }

    /// Of each repository and cluster another one, without anything of an address that
    /// no file name can hold.
    fn path(&self, location: &str, system_identifier: SystemIdentifier) -> PathBuf {
        let mut place = Fingerprinter::new();
        place.update(location.as_bytes());
        self.folder
            .join(format!("{system_identifier}-{}{SUFFIX}", place.finish()))
    }

    fn stored(&self, location: &str, system_identifier: SystemIdentifier) -> Option<Arc<Stored>> {
        let path = self.path(location, system_identifier);
        let mut files = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = files
            .entry(path)
            .or_insert_with_key(|path| read(path).map(Arc::new));
        stored.clone().filter(|stored| stored.location == location)
    }

    /// Whole or not at all, also where two write at the same time. Nothing is synced:
    /// what a power loss leaves is whole, or seen to be damaged.
    fn replace(&self, path: &Path, text: &str) -> io::Result<()> {
        let temporary = path.with_extension("tmp");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0))
            .open(&temporary)?;
        file.try_lock()?;
        // another one may have renamed it between the open and the lock
        if std::fs::symlink_metadata(&temporary)?.ino() != file.metadata()?.ino() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        file.set_len(0)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(&temporary, path)
    }

    fn forget_the_forgotten(&self) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let is_ours = [SUFFIX.as_bytes(), b".tmp"]
                .iter()
                .any(|suffix| name.as_encoded_bytes().ends_with(suffix));
            let age = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .ok()
                .and_then(|modified| modified.elapsed().ok());
            if is_ours && age.is_some_and(|age| age > FORGOTTEN_AFTER) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

impl Recollection for Record {
    fn of(&self, address: &ArchiveAddress, key: &ObjectKey) -> Option<Recollected> {
        let stored = self.stored(&address.location, address.system_identifier)?;
        if stored.created != address.created {
            return None;
        }
        let mut objects = stored.objects.iter();
        let (_, known) = objects.find(|(known, _)| known == key)?;
        Some(known.clone())
    }
}

impl Stored {
    /// Lines of words, and a fingerprint of all that stands before it.
    fn to_text(&self) -> String {
        let mut text = format!(
            "{FIRST_LINE}\nrepository {}\ncreated {}\n",
            quote(&self.location),
            quote(&self.created)
        );
        for (key, known) in &self.objects {
            let _ = writeln!(text, "object {key} {} {}", known.fingerprint, known.trace);
        }
        let seal = fingerprint(&text);
        let _ = writeln!(text, "end {seal}");
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let (body, seal) = text.strip_suffix('\n')?.rsplit_once("end ")?;
        if Fingerprint::parse(seal)? != fingerprint(body) {
            return None;
        }
        let mut lines = body.lines();
        if lines.next()? != FIRST_LINE {
            return None;
        }
        let location = unquote(lines.next()?.strip_prefix("repository ")?)?;
        let created = unquote(lines.next()?.strip_prefix("created ")?)?;
        let objects = lines.map(|line| {
            let mut words = line.strip_prefix("object ")?.split(' ');
            let key = ObjectKey::parse(words.next()?).ok()?;
            let known = Recollected {
                fingerprint: Fingerprint::parse(words.next()?)?,
                trace: ObjectTrace::from_text(words.next()?),
            };
            words.next().is_none().then_some((key, known))
        });
        Some(Self {
            objects: objects.collect::<Option<_>>()?,
            location,
            created,
        })
    }
}

fn fingerprint(text: &str) -> Fingerprint {
    let mut fingerprinter = Fingerprinter::new();
    fingerprinter.update(text.as_bytes());
    fingerprinter.finish()
}

/// On one line, whatever is in it.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn unquote(text: &str) -> Option<String> {
    serde_json::from_str(text).ok()
}

/// What the file says; `None` if it is not there, or is not to be believed.
fn read(path: &Path) -> Option<Stored> {
    let file = File::open(path).ok()?;
    // wherever the folder lies: nobody else has written this
    if file.metadata().ok()?.uid() != rustix::process::geteuid().as_raw() {
        return None;
    }
    let mut text = String::new();
    file.take(MOST_BYTES).read_to_string(&mut text).ok()?;
    Stored::parse(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(location: &str) -> ArchiveAddress {
        ArchiveAddress {
            location: location.to_owned(),
            created: "2026-11-20T00:00:00Z".to_owned(),
            system_identifier: "7123456789012345678".parse().unwrap(),
        }
    }

    fn object(number: u32) -> (ObjectKey, Recollected) {
        let key = format!("7/wal/00000001/00000000/0000000100000000{number:08X}.zst");
        let known = Recollected {
            trace: ObjectTrace::of_version(u64::from(number), "12:34.56"),
            fingerprint: fingerprint(&number.to_string()),
        };
        (ObjectKey::parse(&key).unwrap(), known)
    }

    fn record() -> (tempfile::TempDir, Record) {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::in_directory(dir.path());
        record.prepare().unwrap();
        (dir, record)
    }

    /// As another process sees it.
    fn again(dir: &tempfile::TempDir) -> Record {
        Record::in_directory(dir.path())
    }

    fn files(record: &Record) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&record.folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn what_is_written_down_is_known_and_nothing_else() {
        let (dir, record) = record();
        let here = address("/srv/with a space \"and\" \n more");
        record.add(&here, vec![object(1), object(2)]).unwrap();
        record.add(&here, vec![object(3)]).unwrap();
        let record = again(&dir);
        for number in 1..=3 {
            let (key, known) = object(number);
            assert_eq!(record.of(&here, &key), Some(known));
        }
        assert_eq!(record.of(&here, &object(4).0), None);
        let name = |number: u32| format!("0000000100000000{number:08X}").parse().unwrap();
        let mentions =
            |number| record.mentions(&here.location, here.system_identifier, &name(number));
        assert!(mentions(1) && mentions(3) && !mentions(4));
        let mode = std::fs::metadata(&files(&record)[0]).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn other_repositories_and_other_clusters_know_nothing_of_it() {
        let (dir, record) = record();
        let here = address("/srv/a");
        record.add(&here, vec![object(1)]).unwrap();
        let record = again(&dir);
        let key = object(1).0;
        assert!(record.of(&here, &key).is_some());
        assert_eq!(record.of(&address("/srv/b"), &key), None);
        let mut anew = here.clone();
        anew.created = "2026-11-20T00:00:01Z".to_owned();
        assert_eq!(record.of(&anew, &key), None);
        let mut other = here.clone();
        other.system_identifier = "7123456789012345679".parse().unwrap();
        assert_eq!(record.of(&other, &key), None);
        // a repository that was made anew takes the old one's file
        record.add(&anew, vec![object(2)]).unwrap();
        assert_eq!(again(&dir).of(&here, &key), None);
        assert_eq!(again(&dir).of(&anew, &key), None);
        assert!(again(&dir).of(&anew, &object(2).0).is_some());
    }

    #[test]
    fn a_file_that_is_cut_or_changed_anywhere_is_not_believed() {
        let (dir, record) = record();
        let here = address("/srv/a");
        record.add(&here, vec![object(1)]).unwrap();
        let path = files(&record).remove(0);
        let whole = std::fs::read(&path).unwrap();
        let is_known = || again(&dir).of(&here, &object(1).0).is_some();
        assert!(is_known());
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(!is_known(), "cut to {length}");
        }
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            assert!(!is_known(), "changed at {place}");
        }
        std::fs::write(&path, [&whole[..], &whole[..]].concat()).unwrap();
        assert!(!is_known(), "twice");
        // and is made good by the next batch
        record.add(&here, vec![object(1)]).unwrap();
        assert!(is_known());
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let (dir, record) = record();
        let here = address("/srv/a");
        for batch in 0..10 {
            let objects = (batch * 64..batch * 64 + 64).map(object).collect();
            record.add(&here, objects).unwrap();
        }
        let stored = again(&dir)
            .stored(&here.location, here.system_identifier)
            .unwrap();
        assert_eq!(stored.objects.len(), MOST_OBJECTS);
        assert_eq!(stored.objects.last(), Some(&object(639)));
        // what nobody has written for long goes
        let old = record.folder.join("1-2.stored");
        let ours = record.folder.join("notes.txt");
        for path in [&old, &ours] {
            let file = File::create(path).unwrap();
            let then = std::time::SystemTime::now() - FORGOTTEN_AFTER - Duration::from_secs(9);
            file.set_modified(then).unwrap();
        }
        record.add(&here, vec![object(1)]).unwrap();
        assert!(!old.exists() && ours.exists());
    }

    #[test]
    fn a_folder_that_others_can_write_is_not_used() {
        use std::os::unix::fs::PermissionsExt as _;
        let (dir, record) = record();
        let open = std::fs::Permissions::from_mode(0o770);
        std::fs::set_permissions(&record.folder, open).unwrap();
        let why = record.prepare().unwrap_err();
        assert!(why.contains("not a private folder"), "{why}");
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let why = Record::in_directory(&file).prepare().unwrap_err();
        assert!(why.contains("could not make"), "{why}");
    }
}
