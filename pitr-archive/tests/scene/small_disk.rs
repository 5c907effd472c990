//! A disk that is soon full.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses another part of the scene"
)]

use std::path::Path;
use std::process::Command;

/// A small file system, unmounted whatever becomes of the test.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where this user may not mount.
    pub fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .output()
            .is_ok_and(|output| output.status.success())
            .then_some(Self(folder))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn grow(&self, size: &str) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,size={size}")])
            .arg(self.path())
            .status();
        assert!(status.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
