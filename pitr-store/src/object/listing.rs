//! What lies in a folder of a bucket, and which of several names are there.

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::bucket::Bucket;
use super::failure::Failure;
use crate::key::ObjectKey;
use crate::store::{Entry, EntryKind, ObjectMeta};

/// Objects that are removed at once.
const DELETES_IN_FLIGHT: usize = 16;

/// What lies directly in `folder`, sorted. What no key can name is not shown:
/// marks of life, objects of the probe, foreign things.
pub(super) async fn list(
    bucket: &Bucket,
    folder: Option<&ObjectKey>,
) -> Result<Vec<Entry>, Failure> {
    let prefix = bucket.folder_prefix(folder);
    let listed = bucket.list(&prefix, true).await?;
    let visible = |name: &str| {
        let name = name.strip_prefix(&prefix)?;
        let is_component = !name.contains('/') && ObjectKey::parse(name).is_ok();
        is_component.then(|| name.to_owned())
    };
    let mut entries: Vec<Entry> = Vec::new();
    for name in &listed.folders {
        entries.extend(visible(name).map(|name| Entry {
            name,
            kind: EntryKind::Folder,
        }));
    }
    for (name, size, _) in &listed.objects {
        entries.extend(visible(name).map(|name| Entry {
            name,
            kind: EntryKind::Object { size: *size },
        }));
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Those of `keys` that are there, by one listing of the names that begin like
/// them. Listings of all three providers are consistent: what was put
/// before is in them.
pub(super) async fn which_of(
    bucket: &Bucket,
    keys: &[ObjectKey],
) -> Result<Vec<(usize, ObjectMeta)>, Failure> {
    let Some(prefix) = common_prefix(keys) else {
        return Ok(Vec::new());
    };
    let prefix = match prefix.char_indices().last() {
        Some((shorter, _)) if bucket.kind.listing_hides_prefix => prefix.get(..shorter),
        _ => Some(prefix),
    };
    let prefix = bucket.name(prefix.unwrap_or_default());
    let listed = bucket.list(&prefix, true).await?;
    let mut there = Vec::new();
    for (place, key) in keys.iter().enumerate() {
        let name = bucket.name(key.as_str());
        if let Some((_, size, _)) = listed.objects.iter().find(|(found, ..)| *found == name) {
            there.push((place, ObjectMeta { size: *size }));
        }
    }
    Ok(there)
}

/// What all keys begin with.
fn common_prefix(keys: &[ObjectKey]) -> Option<&str> {
    let mut prefix = keys.first()?.as_str();
    for key in keys {
        let same = prefix
            .bytes()
            .zip(key.as_str().bytes())
            .take_while(|(a, b)| a == b)
            .count();
        prefix = prefix.get(..same)?;
    }
    Some(prefix)
}

/// Removes all that lies in `folder`, at any depth, hidden names too.
pub(super) async fn delete_folder(bucket: &Bucket, folder: &ObjectKey) -> Result<(), Failure> {
    let listed = bucket
        .list(&bucket.folder_prefix(Some(folder)), false)
        .await?;
    futures_util::stream::iter(listed.objects)
        .map(|(name, ..)| async move { bucket.delete(&name).await })
        .buffer_unordered(DELETES_IN_FLIGHT)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codecs_names_of_a_segment_share_its_plain_name() {
        let keys: Vec<_> = ["w/0001.zst", "w/0001.xz", "w/0001"]
            .iter()
            .map(|text| ObjectKey::parse(text).unwrap())
            .collect();
        assert_eq!(common_prefix(&keys), Some("w/0001"));
        assert_eq!(common_prefix(&keys[..1]), Some("w/0001.zst"));
        assert_eq!(common_prefix(&[]), None);
    }
}
