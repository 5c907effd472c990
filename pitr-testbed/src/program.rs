//! The project's own commands, for tests that need both of them.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use crate::TestbedError;

/// Programs that this process has already brought up to date.
static BUILT: Mutex<Vec<(String, PathBuf)>> = Mutex::new(Vec::new());

/// Path of the command that the workspace's package `name` builds, up to date.
///
/// `CARGO_BIN_EXE_…` names only the commands of the package under test; this
/// one asks cargo for those of the other packages, in the profile and target
/// folder of the tests themselves.
///
/// # Errors
/// [`TestbedError::Failed`] with what the compiler said.
pub fn program(name: &str) -> Result<PathBuf, TestbedError> {
    let mut built = BUILT
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((_, path)) = built.iter().find(|(known, _)| known == name) {
        return Ok(path.clone());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--locked", "--package", name])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command.output().map_err(|source| TestbedError::Spawn {
        program: "cargo build".to_owned(),
        source,
    })?;
    if !output.status.success() {
        return Err(TestbedError::Failed {
            program: format!("cargo build --package {name}"),
            status: output.status.to_string(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    // tests run from <target>/<profile>/deps
    let here = std::env::current_exe().map_err(TestbedError::file("find", "the test itself"))?;
    let path = here
        .ancestors()
        .nth(2)
        .map(|profile| profile.join(name))
        .filter(|path| path.is_file())
        .ok_or_else(|| TestbedError::Failed {
            program: format!("cargo build --package {name}"),
            status: "success".to_owned(),
            stderr: format!("no {name} beside {}", here.display()),
        })?;
    built.push((name.to_owned(), path.clone()));
    Ok(path)
}
