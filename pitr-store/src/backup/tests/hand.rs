//! Restoring by hand: what docs/store-format.md says, done with stock tools.

use super::*;

#[test]
fn zstd_and_tar_alone_bring_every_part_back() {
    let sample = Sample::new(small(200_000, 30_000));
    let target = TempDir::new().unwrap();
    let (data, tablespace) = (target.path().join("data"), target.path().join("fast"));
    fs::create_dir(&data).unwrap();
    fs::create_dir(&tablespace).unwrap();
    // the recipe, word for word but for the places
    let script = r#"
        set -eu
        for part in base-*.tar.zst; do
            zstd -dc "$part" | tar -x -p -C "$DATA"
        done
        for part in 16384-*.tar.zst; do
            zstd -dc "$part" | tar -x -p -C "$FAST"
        done
    "#;
    let output = Command::new("bash")
        .args(["-o", "pipefail", "-c", script])
        .current_dir(sample.folder())
        .env("DATA", &data)
        .env("FAST", &tablespace)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(tree(&data), tree(sample.data.path()));
    assert_eq!(tree(&tablespace), tree(sample.tablespace.path()));
}

#[test]
fn tar_reads_a_part_through_its_own_zstd_option() {
    let sample = Sample::new(small(200_000, 30_000));
    let reader = sample.reader();
    for part in &sample.info.parts {
        let output = Command::new("tar")
            .args(["--zstd", "-tf", &part.name.to_string()])
            .current_dir(sample.folder())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let listed = String::from_utf8(output.stdout).unwrap();
        let files = listed.lines().filter(|name| !name.ends_with('/')).count();
        assert_eq!(files, reader.index().part(&part.name).unwrap().files.len());
    }
}

#[test]
fn the_index_leads_to_a_file_without_any_tool_of_ours() {
    let sample = Sample::new(small(200_000, 30_000));
    let reader = sample.reader();
    let wanted = path("pg_tblspc/16384/PG_15_202209061/5/20001");
    let (part, entry) = reader.index().find(&wanted).unwrap();
    let script = format!(
        "zstd -dc {part} | tail -c +{} | head -c {}",
        entry.offset + 1,
        entry.length
    );
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(sample.folder())
        .output()
        .unwrap();
    assert_eq!(output.stdout, noise(100, 6));
}

#[test]
fn files_of_a_backup_are_private_to_their_owner() {
    let sample = Sample::new(small(200_000, 30_000));
    for (name, (mode, _)) in tree(sample.scratch.folder.path()) {
        let private = if mode & 0o170_000 == 0o040_000 {
            0o700
        } else {
            0o600
        };
        assert_eq!(mode & 0o7777, private, "{name}");
    }
    let mut expected: Vec<String> = sample
        .info
        .parts
        .iter()
        .map(|part| part.name.to_string())
        .collect();
    expected.extend(["backup.json".to_owned(), "backup_manifest".to_owned()]);
    expected.sort();
    assert_eq!(names(&sample.folder()), expected);
    assert_eq!(names(&sample.scratch.backups()), ["20261120T074502Z"]);
}

#[test]
fn the_example_of_the_specification_is_a_document_of_this_format() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/store-format.md");
    let text = fs::read_to_string(path).unwrap();
    let example = text
        .split("```json\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .find(|block| block.contains("\"index\""))
        .unwrap();
    let label = "20261120T074502Z".parse().unwrap();
    let (info, index) = super::super::document::parse(example.as_bytes(), label).unwrap();
    assert_eq!(index.len(), 3);
    // and it is written as it would be written
    let parts: Vec<PartIndex> = index.parts().to_vec();
    let written = super::super::document::to_bytes(&info, &parts).unwrap();
    assert_eq!(String::from_utf8(written).unwrap(), example);
}
