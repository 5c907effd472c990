//! What a finished backup tells its taker.

use std::time::Duration;

use pitr_console::{ByteCount, Console, Elapsed, Failure};
use pitr_store::backup::BackupInfo;

/// Prints the result on stdout.
pub(crate) fn report(
    info: &BackupInfo,
    elapsed: Duration,
    json: bool,
    console: Console,
) -> Result<(), Failure> {
    let text = if json {
        serde_json::to_string(info).map_err(|error| {
            Failure::new("could not write the result").with_detail(error.to_string())
        })?
    } else {
        format!(
            "backup {} of cluster {} is complete: {} in {} files, {} stored, in {}\n\
             restore it with: pitr-restore --to DIR --backup {}",
            info.label,
            info.system_identifier,
            ByteCount(info.sizes.raw_bytes),
            info.sizes.files,
            ByteCount(info.sizes.stored_bytes),
            Elapsed(elapsed),
            info.label,
        )
    };
    console
        .result(text)
        .map_err(|error| Failure::new("could not write the result").with_detail(error.to_string()))
}
