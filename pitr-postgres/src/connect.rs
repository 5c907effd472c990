//! From settings to a session that is logged in.

mod authentication;
pub(crate) mod endpoint;
pub(crate) mod error;
mod login;
pub(crate) mod stream;
pub(crate) mod tls;

pub(crate) use login::{Session, log_in};
