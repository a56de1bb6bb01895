//! A small file system in memory, to see what happens when it is full.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::cluster::private_dir;
use super::reaper;

/// A mounted file system that servers may write to; gone when dropped.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts one of this size; says why it cannot, for only root may.
    pub fn mount(bytes: u64) -> Result<Self, String> {
        let dir = private_dir("pgtandem-it-disk-");
        let owner = std::fs::metadata(&dir).expect("we made it");
        let (uid, gid) = {
            use std::os::unix::fs::MetadataExt;
            (owner.uid(), owner.gid())
        };
        let options = format!("size={bytes},mode=0700,uid={uid},gid={gid}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&dir);
        reaper::adopt_dir(&dir);
        let mounted = Self(dir);
        match mount.output() {
            Ok(output) if output.status.success() => Ok(mounted),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a server may still have files open in it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
        if std::fs::remove_dir_all(&self.0).is_ok() {
            reaper::release_dir(&self.0);
        }
    }
}
