//! Which machine this is, so that a restored copy can tell whether it lies
//! where it came from.

/// Name of this machine (`uname -n`).
#[must_use]
pub fn name() -> Option<String> {
    let name = rustix::system::uname();
    let name = name.nodename().to_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// Identifier that the operating system was given when it was installed.
///
/// Source: machine-id(5).
#[must_use]
pub fn machine_id() -> Option<String> {
    let text = std::fs::read_to_string("/etc/machine-id").ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
