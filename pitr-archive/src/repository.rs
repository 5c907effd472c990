//! Reaches the repository that the settings name.

use pitr_console::{Failure, Settings};
use pitr_store::Codec;

pub(crate) use pitr_console::{
    choose_cluster as cluster, open_repository as open, open_repository_for_push as open_for_push,
    parse_system_identifier as system_identifier, repository_set as set,
};

/// The codec of new objects: the flag, else the settings.
pub(crate) fn codec(flag: Option<&str>, settings: &Settings) -> Result<Codec, Failure> {
    Ok(Codec::parse(flag.unwrap_or(&settings.compression))?)
}
