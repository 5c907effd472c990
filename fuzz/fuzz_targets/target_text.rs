//! The texts that name positions, times and targets: what is read prints to something that reads back the same.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use pitr_core::{
    Lsn, RecoveryTarget, RecoveryTargetKind, RecoveryTargetTimeline, RestorePointName,
    SystemIdentifier, TargetAction, TimelineId, Timestamp, TransactionId,
};

fn read_back<T: FromStr + Display + PartialEq + Debug>(text: &str) -> Option<T>
where
    T::Err: Debug + Display,
{
    match text.parse::<T>() {
        Ok(value) => {
            assert_eq!(value.to_string().parse::<T>().unwrap(), value);
            Some(value)
        }
        Err(error) => {
            assert!(error.to_string().len() < 600);
            None
        }
    }
}

fuzz_target!(|text: &str| {
    let kinds = [
        read_back::<Lsn>(text).map(RecoveryTargetKind::Lsn),
        read_back::<Timestamp>(text).map(RecoveryTargetKind::Time),
        read_back::<TransactionId>(text).map(RecoveryTargetKind::Xid),
        read_back::<RestorePointName>(text).map(RecoveryTargetKind::Name),
    ];
    for kind in kinds.into_iter().flatten() {
        let target = RecoveryTarget {
            kind,
            inclusive: false,
        };
        assert!(target.settings().len() <= 2 && !target.to_string().is_empty());
    }
    read_back::<RecoveryTargetTimeline>(text);
    read_back::<TargetAction>(text);
    read_back::<TimelineId>(text);
    read_back::<SystemIdentifier>(text);
});
