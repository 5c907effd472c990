//! Names of unfinished objects on servers without locks:
//! `.NAME.<16 hex digits>.tmp`, another one for every try, so that a lost answer
//! leaves debris and no doubt.

use super::retry::unique;

/// A new temporary name beside the object `object`.
pub(crate) fn temp_name(object: &str) -> String {
    format!(".{object}.{:016x}.tmp", unique())
}

/// Whether `name` is a temporary name for the object `object`.
pub(crate) fn is_temp_of(name: &str, object: &str) -> bool {
    name.strip_prefix('.')
        .and_then(|rest| rest.strip_prefix(object))
        .and_then(|rest| rest.strip_prefix('.'))
        .and_then(|rest| rest.strip_suffix(".tmp"))
        .is_some_and(|number| number.len() == 16 && number.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_name_is_known_for_its_object_alone() {
        let name = temp_name("object");
        assert!(is_temp_of(&name, "object"), "{name}");
        assert!(!is_temp_of(&name, "objec"));
        assert!(!is_temp_of(&temp_name("object.zst"), "object"));
        assert_ne!(name, temp_name("object"));
        for foreign in [".object.tmp", ".object.0123.tmp", "object", ".object.hold"] {
            assert!(!is_temp_of(foreign, "object"), "{foreign}");
        }
    }
}
