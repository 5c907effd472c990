//! The values that a server writes into the fields of its control file.

use crate::control_file::ControlFileError;
use crate::timestamp::Timestamp;
use crate::wal::level::WalLevel;

pub(crate) fn field(field: &'static str, value: impl Into<i64>) -> ControlFileError {
    ControlFileError::Field {
        field,
        value: value.into(),
    }
}

pub(crate) fn wal_level(number: i32) -> Result<WalLevel, ControlFileError> {
    WalLevel::from_number(number).ok_or(field("wal_level", number))
}

pub(crate) fn boolean(name: &'static str, byte: u8) -> Result<bool, ControlFileError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(field(name, byte)),
    }
}

pub(crate) fn setting(name: &'static str, number: i32) -> Result<u32, ControlFileError> {
    u32::try_from(number).map_err(|_| field(name, number))
}

pub(crate) fn page_size(name: &'static str, bytes: u32) -> Result<u32, ControlFileError> {
    let possible = bytes.is_power_of_two() && (1 << 10..=1 << 16).contains(&bytes);
    if possible {
        Ok(bytes)
    } else {
        Err(field(name, bytes))
    }
}

pub(crate) fn time(name: &'static str, unix_seconds: i64) -> Result<Timestamp, ControlFileError> {
    Timestamp::from_unix_seconds(unix_seconds).ok_or(field(name, unix_seconds))
}
