//! Whose a repository is, and what is none.

use std::fs;
use std::path::Path;

use super::*;
use crate::local::LocalStore;

fn identity(system_identifier: u64) -> ClusterIdentity {
    ClusterIdentity {
        system_identifier: SystemIdentifier::new(system_identifier),
        major: PostgresMajor::new(15).unwrap(),
        segment_size: WalSegmentSize::DEFAULT,
    }
}

fn store(path: &Path) -> Arc<dyn Store> {
    Arc::new(LocalStore::new(path))
}

fn fresh() -> (tempfile::TempDir, Repository) {
    let dir = tempfile::tempdir().unwrap();
    let repository = Repository::init(store(&dir.path().join("repo"))).unwrap();
    assert!(matches!(repository, Initialized::Created(_)));
    (dir, repository.into_repository())
}

#[test]
fn init_twice_changes_nothing() {
    let (dir, first) = fresh();
    let before = fs::read(dir.path().join("repo/pitr.json")).unwrap();
    let again = Repository::init(store(&dir.path().join("repo"))).unwrap();
    assert!(matches!(again, Initialized::Existing(_)));
    assert_eq!(again.into_repository().document(), first.document());
    assert_eq!(fs::read(dir.path().join("repo/pitr.json")).unwrap(), before);
}

#[test]
fn a_place_without_pitr_json_is_an_unmounted_disk() {
    let dir = tempfile::tempdir().unwrap();
    for place in [dir.path().to_owned(), dir.path().join("missing")] {
        let error = Repository::open(store(&place)).unwrap_err();
        assert!(matches!(error, RepositoryError::NotARepository { .. }));
        assert!(error.hint().unwrap().contains("Is the disk mounted?"));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn init_does_not_settle_among_other_files() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("PG_VERSION"), "15\n").unwrap();
    let error = Repository::init(store(dir.path())).unwrap_err();
    assert!(error.to_string().contains("PG_VERSION"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn init_on_a_fresh_disk_is_not_disturbed_by_lost_and_found() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    Repository::init(store(dir.path())).unwrap();
}

#[test]
fn an_unknown_format_is_refused_by_its_number() {
    let (dir, _) = fresh();
    let path = dir.path().join("repo/pitr.json");
    fs::write(
        &path,
        r#"{"format": 3, "made": {"by": ["something newer"]}}"#,
    )
    .unwrap();
    let error = Repository::open(store(&dir.path().join("repo"))).unwrap_err();
    assert!(
        matches!(
            error,
            RepositoryError::Document(DocumentError::UnknownFormat { found: 3, .. })
        ),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("newer version"));
    assert!(Repository::init(store(&dir.path().join("repo"))).is_err());
    for broken in [
        "",
        "{}",
        "[1]",
        "{\"format\": \"1\"}",
        "\0\0\0",
        "{\"format\": 1}",
    ] {
        fs::write(&path, broken).unwrap();
        assert!(
            matches!(
                Repository::open(store(&dir.path().join("repo"))),
                Err(RepositoryError::Document(DocumentError::Syntax { .. }))
            ),
            "{broken:?}"
        );
    }
}

#[test]
fn the_first_cluster_owns_the_repository_until_another_is_added() {
    let (_dir, repository) = fresh();
    let first = repository.claim(&identity(7_312)).unwrap();
    assert_eq!(first.identity(), identity(7_312));
    assert_eq!(
        repository.claim(&identity(7_312)).unwrap().identity(),
        first.identity()
    );

    let error = repository.claim(&identity(9_999)).unwrap_err();
    assert!(matches!(
        error,
        ClaimError::OwnedByOther { owner, offered, .. }
            if owner.get() == 7_312 && offered.get() == 9_999
    ));
    assert!(error.hint().unwrap().contains("init --add"));
    assert!(
        repository
            .cluster(SystemIdentifier::new(9_999))
            .unwrap()
            .is_none()
    );

    repository.add(&identity(9_999)).unwrap();
    repository.claim(&identity(9_999)).unwrap();
    let known: Vec<_> = repository
        .clusters()
        .unwrap()
        .iter()
        .map(|c| c.identity().system_identifier.get())
        .collect();
    assert_eq!(known, [7_312, 9_999]);
}

#[test]
fn a_cluster_added_first_keeps_others_out_as_well() {
    let (_dir, repository) = fresh();
    repository.add(&identity(1)).unwrap();
    assert!(repository.claim(&identity(2)).is_err());
}

#[test]
fn a_claim_cut_short_is_finished_by_its_cluster_alone() {
    let (dir, repository) = fresh();
    repository.claim(&identity(1)).unwrap();
    fs::remove_dir_all(dir.path().join("repo/1")).unwrap();
    assert!(matches!(
        repository.claim(&identity(2)),
        Err(ClaimError::OwnedByOther { .. })
    ));
    repository.claim(&identity(1)).unwrap();
}

/// A store on which another process of cluster 1 claims the repository just
/// before the root is listed.
#[derive(Debug)]
struct Overtaken(LocalStore);

impl Store for Overtaken {
    fn location(&self) -> String {
        self.0.location()
    }
    fn establish(&self) -> Result<(), StoreError> {
        self.0.establish()
    }
    fn create(
        &self,
        key: &ObjectKey,
        rivals: &[ObjectKey],
    ) -> Result<Box<dyn crate::ObjectWriter>, StoreError> {
        self.0.create(key, rivals)
    }
    fn open(&self, key: &ObjectKey) -> Result<Box<dyn std::io::Read + Send>, StoreError> {
        self.0.open(key)
    }
    fn read_range(
        &self,
        key: &ObjectKey,
        range: std::ops::Range<u64>,
    ) -> Result<Vec<u8>, StoreError> {
        self.0.read_range(key, range)
    }
    fn stat(&self, key: &ObjectKey) -> Result<Option<crate::ObjectMeta>, StoreError> {
        self.0.stat(key)
    }
    fn list(&self, folder: Option<&ObjectKey>) -> Result<Vec<crate::Entry>, StoreError> {
        let other: Arc<dyn Store> = Arc::new(LocalStore::new(self.0.root()));
        let other = Repository::open(other).unwrap();
        other.claim(&identity(1)).unwrap();
        self.0.list(folder)
    }
    fn make_durable(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.0.make_durable(key)
    }
    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.0.delete(key)
    }
    fn delete_folder(&self, folder: &ObjectKey) -> Result<(), StoreError> {
        self.0.delete_folder(folder)
    }
    fn hold(&self, key: &ObjectKey) -> Result<Option<crate::Hold>, StoreError> {
        self.0.hold(key)
    }
}

#[test]
fn a_claim_that_is_overtaken_by_its_own_cluster_succeeds() {
    let (dir, _) = fresh();
    let claim = |number| {
        let store: Arc<dyn Store> = Arc::new(Overtaken(LocalStore::new(dir.path().join("repo"))));
        Repository::open(store).unwrap().claim(&identity(number))
    };
    claim(1).unwrap();
    assert!(matches!(claim(2), Err(ClaimError::OwnedByOther { .. })));
}

#[test]
fn of_clusters_that_claim_at_once_one_wins() {
    for _ in 0..20 {
        let (_dir, repository) = fresh();
        let claims: Vec<_> = (1..=4)
            .map(|number| {
                let repository = repository.clone();
                std::thread::spawn(move || repository.claim(&identity(number)).is_ok())
            })
            .collect();
        let won: Vec<bool> = claims.into_iter().map(|c| c.join().unwrap()).collect();
        assert_eq!(won.iter().filter(|won| **won).count(), 1);
        assert_eq!(repository.clusters().unwrap().len(), 1);
    }
}

#[test]
fn a_cluster_that_changed_its_segment_size_is_refused() {
    let (_dir, repository) = fresh();
    repository.claim(&identity(1)).unwrap();
    let mut changed = identity(1);
    changed.segment_size = WalSegmentSize::new(1 << 20).unwrap();
    assert!(matches!(
        repository.claim(&changed),
        Err(ClaimError::Changed { .. })
    ));
    assert!(matches!(
        repository.add(&changed),
        Err(ClaimError::Changed { .. })
    ));
}

#[test]
fn a_system_identifier_is_text_in_the_documents() {
    let (dir, repository) = fresh();
    let large = 18_446_744_073_709_551_615;
    repository.claim(&identity(large)).unwrap();
    let text = fs::read_to_string(dir.path().join(format!("repo/{large}/cluster.json"))).unwrap();
    assert!(
        text.contains("\"system_identifier\": \"18446744073709551615\""),
        "{text}"
    );
    assert!(text.contains("\"wal_segment_size\": 16777216"), "{text}");
    assert!(text.contains("\"postgres_major\": 15"), "{text}");
    assert!(
        repository
            .cluster(SystemIdentifier::new(large))
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_document_moved_to_another_clusters_folder_is_noticed() {
    let (dir, repository) = fresh();
    repository.claim(&identity(1)).unwrap();
    fs::rename(dir.path().join("repo/1"), dir.path().join("repo/2")).unwrap();
    assert!(matches!(
        repository.cluster(SystemIdentifier::new(2)),
        Err(RepositoryError::Document(
            DocumentError::WrongCluster { .. }
        ))
    ));
}
