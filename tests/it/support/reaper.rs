//! Cleans up after a test process, however it ends.
//!
//! One small shell per test process is told which processes and folders exist. It reads from a
//! pipe; when the test process is gone (normal end, panic, `kill -9`) the pipe ends, and the shell
//! ends those processes and removes those folders. It stands in its own process group, so that a
//! signal to the group of the test does not reach it.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::{ChildStdin, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
};

/// What the shell does: it keeps the list of what exists, and works it off at the end of its input.
const SCRIPT: &str = r#"
live=; dirs=
while read -r word what how; do
  case $word in
    process) live="$live $what:$how" ;;
    dir) dirs="$dirs $what" ;;
    gone) kept=; for e in $live; do [ "${e%%:*}" = "$what" ] || kept="$kept $e"; done; live=$kept ;;
    removed) kept=; for d in $dirs; do [ "$d" = "$what" ] || kept="$kept $d"; done; dirs=$kept ;;
  esac
done
for e in $live; do kill -"${e##*:}" "${e%%:*}"; done
for e in $live; do
  i=0; while kill -0 "${e%%:*}" && [ $i -lt 100 ]; do i=$((i+1)); sleep 0.05; done
done
for d in $dirs; do umount -l "$d" 2>/dev/null; rm -rf "$d"; done
"#;

static SHELL: OnceLock<Mutex<ChildStdin>> = OnceLock::new();

/// Remembers a process that must not outlive this one; `signal` (`KILL`, `QUIT`) is what ends it.
pub fn adopt_process(pid: u32, signal: &str) {
    tell(&format!("process {pid} {signal}"));
}

/// Remembers a folder that must not outlive this process.
pub fn adopt_dir(dir: &Path) {
    tell(&format!("dir {}", dir.display()));
}

/// Forgets a process that has been waited for; its number may now belong to somebody else.
pub fn release_process(pid: u32) {
    tell(&format!("gone {pid}"));
}

/// Forgets a folder that has been removed.
pub fn release_dir(dir: &Path) {
    tell(&format!("removed {}", dir.display()));
}

fn tell(line: &str) {
    let shell = SHELL.get_or_init(|| Mutex::new(start_shell()));
    let mut pipe = shell.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(pipe, "{line}").expect("the shell lives as long as its pipe");
}

#[expect(clippy::zombie_processes, reason = "it ends after this process")]
fn start_shell() -> ChildStdin {
    let mut shell = Command::new("sh")
        .args(["-c", SCRIPT])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("sh starts");
    shell.stdin.take().expect("stdin was piped")
}
