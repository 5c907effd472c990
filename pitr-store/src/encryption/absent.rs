//! What a build without the feature `encryption` answers.

use std::sync::Arc;

use super::{
    EncryptionDocument, EncryptionError, KeySource, NewKeys, PublicKey, RepositoryKeyName,
};
use crate::store::Store;

pub(crate) fn encrypted_store(
    store: &Arc<dyn Store>,
    _document: &EncryptionDocument,
    _keys: KeySource,
) -> Result<Arc<dyn Store>, EncryptionError> {
    Err(not_in_this_build(store))
}

pub(crate) fn make_repository_key(
    store: &Arc<dyn Store>,
    _keys: &NewKeys,
) -> Result<EncryptionDocument, EncryptionError> {
    Err(not_in_this_build(store))
}

pub(crate) fn add_keys(
    store: &Arc<dyn Store>,
    _document: &EncryptionDocument,
    _source: &KeySource,
    _keys: &NewKeys,
) -> Result<Vec<RepositoryKeyName>, EncryptionError> {
    Err(not_in_this_build(store))
}

pub(crate) fn names_of(
    store: &Arc<dyn Store>,
    _keys: &NewKeys,
    _public_key: &PublicKey,
) -> Result<Vec<RepositoryKeyName>, EncryptionError> {
    Err(not_in_this_build(store))
}

fn not_in_this_build(store: &Arc<dyn Store>) -> EncryptionError {
    EncryptionError::NotInThisBuild {
        location: store.location(),
    }
}
