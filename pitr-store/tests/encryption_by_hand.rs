//! docs/store-format.md is true of encryption: what it shows reads an encrypted
//! repository with stock age and Python, and nothing of pitr.

#![cfg(feature = "encryption")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "what the tests share is not seen as test code"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use pitr_store::encryption::NewKeys;
use pitr_store::made_wal::{SYSTEM_IDENTIFIER, made_cluster, made_segment};
use pitr_store::{Codec, LocalStore, Repository, Store, WalBytes};

const SEGMENT: &str = "000000010000000000000004";

/// The Python scripts of the section, in order.
fn scripts() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/store-format.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, section) = text
        .split_once("\n### Reading an encrypted repository by hand\n")
        .unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    section
        .split("```python\n")
        .skip(1)
        .map(|block| block.split_once("```").unwrap().0.to_owned())
        .collect()
}

fn shell(script: &str, place: &Path) -> Output {
    Command::new("sh")
        .args(["-c", script])
        .current_dir(place)
        .output()
        .unwrap()
}

/// Whether the tools of the recipe are here.
fn can_run(place: &Path) -> bool {
    let found = shell(
        "command -v age && command -v age-keygen && python3 -c 'import cryptography'",
        place,
    );
    if !found.status.success() {
        eprintln!("skipped: age and python3 with its package cryptography are not installed");
    }
    found.status.success()
}

#[track_caller]
fn succeeded(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
}

#[test]
fn an_encrypted_repository_is_read_with_age_and_a_few_lines_of_python() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path();
    if !can_run(place) {
        return;
    }
    let scripts = scripts();
    fs::write(place.join("decrypt.py"), &scripts[0]).unwrap();
    fs::write(place.join("unwrap.py"), &scripts[1]).unwrap();
    succeeded(&shell(
        "age-keygen -o identity 2>/dev/null && age-keygen -y identity > recipient && \
         head -c 32 /dev/urandom | base64 > key",
        place,
    ));
    fs::set_permissions(place.join("key"), fs::Permissions::from_mode(0o600)).unwrap();

    let store: Arc<dyn Store> = Arc::new(LocalStore::new(place.join("repo")));
    let readers = NewKeys {
        recipient_files: vec![place.join("recipient")],
        key_files: vec![place.join("key")],
        ..NewKeys::default()
    };
    let made = Repository::init_encrypted(store, &readers).unwrap();
    let wal = made.into_repository().claim(&made_cluster()).unwrap().wal();
    let segment = made_segment(SEGMENT, 1);
    let history = b"1\t0/400028\tno recovery target specified\n".to_vec();
    let push = |name: &str, bytes: &[u8], codec| {
        let mut source = WalBytes::new(bytes.to_vec(), "test");
        wal.push(&name.parse().unwrap(), &mut source, codec)
            .unwrap();
    };
    push(SEGMENT, &segment, Codec::default());
    // 16 whole chunks
    let plain = "000000010000000000000005";
    push(plain, &made_segment(plain, 2), Codec::None);
    push("00000002.history", &history, Codec::None);

    let read = |to: &str, secret: &str| {
        let script = format!("{secret} | python3 decrypt.py repo {SYSTEM_IDENTIFIER} {to}");
        succeeded(&shell(&script, place));
        let wal: PathBuf = place.join(to).join(format!("{SYSTEM_IDENTIFIER}/wal"));
        let folder = wal.join("00000001/00000000");
        let packed = fs::read(folder.join(format!("{SEGMENT}.zst"))).unwrap();
        assert_eq!(zstd::decode_all(packed.as_slice()).unwrap(), segment);
        assert_eq!(
            fs::read(folder.join(plain)).unwrap(),
            made_segment(plain, 2)
        );
        assert_eq!(fs::read(wal.join("00000002.history")).unwrap(), history);
    };
    read(
        "by-identity",
        "age -d -i identity repo/keys/*/$(cat recipient).age",
    );
    read("by-key-file", "python3 unwrap.py repo key");

    // and the script notices what was changed
    let object = place.join(format!(
        "repo/{SYSTEM_IDENTIFIER}/wal/00000001/00000000/{plain}"
    ));
    let mut stored = fs::read(&object).unwrap();
    stored[500_000] ^= 1;
    fs::write(&object, stored).unwrap();
    let script =
        format!("python3 unwrap.py repo key | python3 decrypt.py repo {SYSTEM_IDENTIFIER} x");
    assert!(!shell(&script, place).status.success());
}
