//! Where the demo happens: one temporary folder and the processes that work in it.
//!
//! Every process that the demo starts, it starts here, so that one place ends them all: servers by
//! [`Workspace::close`], commands by the interrupt that everything waiting here also waits for, and
//! whatever is left when the demo dies itself (panic, `kill -9`) by a watchdog that outlives it.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::iter;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::error::{DemoError, Tail};
use super::interrupt::Interrupt;

/// How long a server may take to accept connections.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a server may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a command may take to end after an interrupt.
const INTERRUPT_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a server that starts is asked whether it accepts connections.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The demo's folder and its processes.
///
/// End it with [`close`](Self::close); if it is dropped instead, the watchdog does the same less kindly.
#[derive(Debug)]
pub(super) struct Workspace {
    path: PathBuf,
    servers: Vec<Server>,
    interrupt: Interrupt,
    watchdog: Watchdog,
}

impl Workspace {
    /// Makes an empty folder below the system's temporary one.
    ///
    /// Others may pass through it, since PostgreSQL may run as another user, but not list it.
    pub(super) fn create(interrupt: Interrupt) -> Result<Self, DemoError> {
        let folder = tempfile::Builder::new()
            .prefix("pgtandem-demo-")
            .tempdir()
            .map_err(|source| DemoError::System { action: "make a temporary folder", source })?;
        let watchdog = Watchdog::start(folder.path())?;
        // From here on it is the watchdog's to remove, after the processes that use it.
        let path = folder.keep();
        fs::set_permissions(&path, Permissions::from_mode(0o711)).map_err(|source| {
            DemoError::File { action: "change the permissions of", path: path.clone(), source }
        })?;
        Ok(Self { path, servers: Vec::new(), interrupt, watchdog })
    }

    /// Names the folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a folder inside that only its owner may enter.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, DemoError> {
        let path = self.path.join(name);
        let made = fs::create_dir(&path)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o700)));
        match made {
            Ok(()) => Ok(path),
            Err(source) => Err(DemoError::File { action: "create", path, source }),
        }
    }

    /// Writes a file inside that only its owner may read.
    pub(super) fn file(&self, name: &str, text: &str) -> Result<PathBuf, DemoError> {
        let path = self.path.join(name);
        let written = File::create_new(&path).and_then(|mut file| {
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(text.as_bytes())
        });
        match written {
            Ok(()) => Ok(path),
            Err(source) => Err(DemoError::File { action: "write", path, source }),
        }
    }

    /// Starts a server and waits until `is_ready`; its output goes to the file `name.log` inside.
    ///
    /// It runs until [`close`](Self::close), which stops it with `stop`, or until it fails.
    pub(super) async fn serve(
        &mut self,
        name: &'static str,
        mut command: Command,
        stop: Signal,
        is_ready: impl AsyncFn() -> bool,
    ) -> Result<(), DemoError> {
        let log = self.path.join(format!("{name}.log"));
        // One that is started again goes on in the same file.
        let opened = File::options().append(true).create(true).open(&log);
        let opened = opened.and_then(|file| Ok((file.try_clone()?, file)));
        let (output, errors) = opened.map_err(|source| DemoError::File {
            action: "write",
            path: log.clone(),
            source,
        })?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let process = Process::start(command, &self.watchdog)?;
        let mut server = Server { name, process, stop, log };
        let ready = self.until_ready(&mut server, is_ready).await;
        self.servers.push(server);
        ready
    }

    async fn until_ready(
        &self,
        server: &mut Server,
        is_ready: impl AsyncFn() -> bool,
    ) -> Result<(), DemoError> {
        let started = Instant::now();
        while !is_ready().await {
            server.check()?;
            if started.elapsed() >= START_TIMEOUT {
                let command = server.process.command.clone();
                let output = server.tail();
                return Err(DemoError::NotReady { command, waited: START_TIMEOUT, output });
            }
            self.pause(POLL_INTERVAL).await?;
        }
        Ok(())
    }

    /// Runs a command to its end and returns what it wrote to standard output.
    ///
    /// `input` is what it reads; `on_line` sees each line that it writes to standard error.
    ///
    /// # Errors
    /// [`DemoError::Failed`] unless it succeeds; [`DemoError::Interrupted`] after ending it.
    pub(super) async fn run(
        &self,
        mut command: Command,
        input: &str,
        on_line: impl FnMut(&str),
    ) -> Result<String, DemoError> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::start(command, &self.watchdog)?;
        let ended = tokio::select! {
            biased;
            signal = self.interrupt.wait() => Err(signal),
            ended = process.talk(input, on_line) => Ok(ended?),
        };
        let ended = match ended {
            Ok(ended) => ended,
            Err(signal) => {
                // What it still has to say, and whether it ends well, is of no interest now.
                let _ = process.stop(Signal::TERM, INTERRUPT_TIMEOUT).await;
                return Err(DemoError::Interrupted { signal });
            }
        };
        if ended.status.success() {
            return Ok(ended.output);
        }
        let output = Tail::of(&format!("{}\n{}", ended.output, ended.errors));
        Err(DemoError::Failed { command: process.command.clone(), status: ended.status, output })
    }

    /// Kills a server, as a crash would end it.
    pub(super) async fn kill(&mut self, name: &str) -> Result<(), DemoError> {
        let Some(mut server) = self.take(name) else { return Ok(()) };
        server.check()?;
        server.process.stop(Signal::KILL, STOP_TIMEOUT).await.map(drop)
    }

    /// Stops a server, as at the end of the demo.
    pub(super) async fn stop(&mut self, name: &str) -> Result<(), DemoError> {
        match self.take(name) {
            Some(server) => server.stop().await,
            None => Ok(()),
        }
    }

    /// Tells whether a server, or what was started as one, still runs.
    ///
    /// # Errors
    /// [`DemoError::Ended`] if it has failed.
    pub(super) fn is_running(&mut self, name: &str) -> Result<bool, DemoError> {
        let Some(server) = self.servers.iter_mut().find(|server| server.name == name) else {
            return Ok(false);
        };
        match server.process.child.try_wait().map_err(lost)? {
            Some(status) if status.success() => Ok(false),
            Some(_) => server.check().map(|()| false),
            None => Ok(true),
        }
    }

    /// Takes what something that has ended well has said.
    pub(super) fn said(&mut self, name: &str) -> String {
        let said = self.take(name).and_then(|server| fs::read(server.log).ok());
        String::from_utf8_lossy(&said.unwrap_or_default()).into_owned()
    }

    fn take(&mut self, name: &str) -> Option<Server> {
        let at = self.servers.iter().position(|server| server.name == name)?;
        Some(self.servers.remove(at))
    }

    /// Waits for a while.
    ///
    /// # Errors
    /// [`DemoError::Interrupted`], at once.
    pub(super) async fn pause(&self, duration: Duration) -> Result<(), DemoError> {
        tokio::select! {
            biased;
            signal = self.interrupt.wait() => Err(DemoError::Interrupted { signal }),
            () = sleep(duration) => Ok(()),
        }
    }

    /// Shows the ends of the servers' logs: each server's name and its last lines.
    pub(super) fn logs(&self) -> impl Iterator<Item = (&'static str, Tail)> {
        self.servers.iter().map(|server| (server.name, server.tail()))
    }

    /// Stops the servers, the youngest first, and removes the folder.
    ///
    /// Goes on whatever fails, and takes no longer than the servers' deadlines; no interrupt makes
    /// it shorter.
    ///
    /// # Errors
    /// The first failure. What could not be stopped was killed.
    pub(super) async fn close(mut self) -> Result<(), DemoError> {
        let mut result = Ok(());
        while let Some(server) = self.servers.pop() {
            result = result.and(server.stop().await);
        }
        let removed = remove(&self.path).await;
        self.watchdog.dismiss().await;
        result.and(removed.map_err(|source| DemoError::File {
            action: "remove",
            path: self.path,
            source,
        }))
    }
}

/// Removes a folder with all that is in it.
///
/// Tries for a while: a grandchild of an interrupted command may die a moment later than the
/// command, and leave another file behind until then.
async fn remove(folder: &Path) -> io::Result<()> {
    let started = Instant::now();
    loop {
        match fs::remove_dir_all(folder) {
            Err(error)
                if error.kind() == ErrorKind::DirectoryNotEmpty
                    && started.elapsed() < INTERRUPT_TIMEOUT =>
            {
                sleep(POLL_INTERVAL).await;
            }
            result => return result,
        }
    }
}

/// A server that runs until the end of the demo.
#[derive(Debug)]
struct Server {
    name: &'static str,
    process: Process,
    stop: Signal,
    log: PathBuf,
}

impl Server {
    /// Fails if the server has ended.
    fn check(&mut self) -> Result<(), DemoError> {
        let Some(status) = self.process.child.try_wait().map_err(lost)? else { return Ok(()) };
        let command = self.process.command.clone();
        Err(DemoError::Ended { command, status, output: self.tail() })
    }

    async fn stop(mut self) -> Result<(), DemoError> {
        self.check()?;
        let stopped = self.process.stop(self.stop, STOP_TIMEOUT).await?;
        let command = self.process.command.clone();
        let output = self.tail();
        match stopped {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(DemoError::Failed { command, status, output }),
            None => Err(DemoError::NotStopped { command, waited: STOP_TIMEOUT, output }),
        }
    }

    fn tail(&self) -> Tail {
        // A log that cannot be read shows as an empty one: it only explains another failure.
        Tail::of(&String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()))
    }
}

/// One process, the leader of its own group: Ctrl-C on the terminal reaches only the demo, which
/// then ends its processes in order.
#[derive(Debug)]
struct Process {
    command: String,
    child: Child,
    watched: Watched,
}

/// How a command ended, and what it said.
struct Ended {
    status: ExitStatus,
    output: String,
    errors: String,
}

impl Process {
    fn start(mut command: Command, watchdog: &Watchdog) -> Result<Self, DemoError> {
        let shown = shown(&command);
        let started = command.process_group(0).spawn();
        match started {
            Ok(child) => {
                let watched = watchdog.watch(child.id());
                Ok(Self { command: shown, child, watched })
            }
            Err(source) => Err(DemoError::Start { command: shown, source }),
        }
    }

    /// Feeds the process, listens to it, and waits for its end.
    async fn talk(&mut self, input: &str, on_line: impl FnMut(&str)) -> Result<Ended, DemoError> {
        let stdin = self.child.stdin.take();
        let stdout = self.child.stdout.take();
        let stderr = self.child.stderr.take();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A process that does not want its input says why itself.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let ((), output, errors, status) =
            tokio::join!(feed, text(stdout), lines(stderr, on_line), self.child.wait());
        let status = status.map_err(lost)?;
        Ok(Ended { status, output, errors })
    }

    /// Asks the process to stop, and kills its group at the deadline; `None` if it had to.
    async fn stop(
        &mut self,
        signal: Signal,
        deadline: Duration,
    ) -> Result<Option<ExitStatus>, DemoError> {
        let group = self.child.id().and_then(group);
        send(group, signal);
        let ended = if let Ok(ended) = timeout(deadline, self.child.wait()).await {
            Some(ended.map_err(lost)?)
        } else {
            send(group, Signal::KILL);
            self.child.wait().await.map_err(lost)?;
            None
        };
        // Its own children, if it forgot them. The group still has its number if there are any.
        send(group, Signal::KILL);
        Ok(ended)
    }
}

fn send(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // It fails only if nobody is left in the group, which is what we want.
        let _ = kill_process_group(group, signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Only if it has ended. Otherwise we go without having waited for it: the watchdog will.
        if self.child.id().is_none() {
            self.watched.tell('-');
        }
    }
}

fn lost(source: io::Error) -> DemoError {
    DemoError::System { action: "wait for a process", source }
}

fn group(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

async fn text(source: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut source) = source {
        // Reading from a pipe does not fail; if it did, what was read is what there is.
        let _ = source.read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn lines(source: Option<impl AsyncRead + Unpin>, mut on_line: impl FnMut(&str)) -> String {
    let mut said = String::new();
    if let Some(source) = source {
        let mut lines = BufReader::new(source).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            on_line(&line);
            said.push_str(&line);
            said.push('\n');
        }
    }
    said
}

/// A small process that waits for our end, whatever brings it, and then cleans up what is left.
#[derive(Debug)]
struct Watchdog {
    process: Child,
    /// Its standard input: it takes our end from the end of this.
    pipe: Arc<File>,
}

impl Watchdog {
    const SCRIPT: &'static str = include_str!("watchdog.sh");

    fn start(folder: &Path) -> Result<Self, DemoError> {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(Self::SCRIPT).arg("pgtandem-demo-watchdog").arg(folder);
        command.current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let failed = |source| DemoError::Start { command: "/bin/sh".to_owned(), source };
        let mut process = command.spawn().map_err(failed)?;
        let pipe = process.stdin.take().ok_or_else(|| failed(ErrorKind::BrokenPipe.into()))?;
        let pipe = Arc::new(File::from(pipe.into_owned_fd().map_err(failed)?));
        Ok(Self { process, pipe })
    }

    /// Says that the process `pid` and its group are to be ended with us.
    fn watch(&self, pid: Option<u32>) -> Watched {
        let watched = Watched { pid, pipe: Arc::clone(&self.pipe) };
        watched.tell('+');
        watched
    }

    /// Lets it go, once nothing is left to do for it.
    async fn dismiss(mut self) {
        drop(self.pipe);
        // It ends now, and nothing depends on it any more.
        let _ = self.process.wait().await;
    }
}

/// A process that the watchdog knows of.
#[derive(Debug)]
struct Watched {
    pid: Option<u32>,
    pipe: Arc<File>,
}

impl Watched {
    /// Says that the process was started, `+`, or that it has ended, `-`.
    fn tell(&self, change: char) {
        if let Some(pid) = self.pid {
            // One write, so that lines stay whole. It fails only without a watchdog; the demo
            // cleans up after itself all the same then, as long as it lives.
            let line = format!("{change} {pid}\n");
            let _ = (&*self.pipe).write_all(line.as_bytes());
        }
    }
}

/// Shows a command as one would type it.
pub(super) fn shown(command: &Command) -> String {
    let command = command.as_std();
    let words = iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=+/.,:@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that ends well when asked, and a child of it that would not end by itself.
    async fn with_server() -> (Workspace, PathBuf, Pid) {
        let mut workspace = Workspace::create(Interrupt::never()).unwrap();
        workspace.file("some.toml", "text").unwrap();
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg("trap 'exit 0' TERM; sleep 1000 & echo ready; wait");
        let log = workspace.path().join("server.log");
        let is_ready = async || fs::read(&log).is_ok_and(|text| !text.is_empty());
        workspace.serve("server", command, Signal::TERM, is_ready).await.unwrap();
        let path = workspace.path().to_owned();
        let pid = workspace.servers.first().and_then(|server| server.process.child.id());
        (workspace, path, pid.and_then(group).unwrap())
    }

    #[tokio::test]
    async fn closing_leaves_nothing_behind() {
        let (workspace, path, server) = with_server().await;
        assert!(path.join("server.log").is_file() && path.join("some.toml").is_file());
        workspace.close().await.unwrap();
        assert!(!path.exists());
        timeout(STOP_TIMEOUT, gone(server)).await.unwrap();
    }

    #[tokio::test]
    async fn the_watchdog_finishes_what_is_not_closed() {
        let (workspace, path, server) = with_server().await;
        drop(workspace);
        timeout(STOP_TIMEOUT, gone(server)).await.unwrap();
        let removed = async {
            while path.exists() {
                sleep(POLL_INTERVAL).await;
            }
        };
        timeout(STOP_TIMEOUT, removed).await.unwrap();
    }

    /// Waits until nothing of a group is left but, maybe, what nobody has waited for.
    async fn gone(group: Pid) {
        while members(group) > 0 {
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Counts the living processes of a group, from `/proc/PID/stat`: `PID (NAME) STATE PPID PGRP`.
    fn members(group: Pid) -> usize {
        let group = group.as_raw_pid().to_string();
        let is_member = |stat: &String| {
            let mut fields = stat.rsplit_once(") ").unwrap().1.split(' ');
            fields.next() != Some("Z") && fields.nth(1) == Some(&group)
        };
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let stats = processes.flat_map(|process| fs::read_to_string(process.path().join("stat")));
        stats.filter(is_member).count()
    }

    #[tokio::test]
    async fn commands_say_how_they_end() {
        let workspace = Workspace::create(Interrupt::never()).unwrap();
        let shell = |script: &str| {
            let mut command = Command::new("/bin/sh");
            command.arg("-c").arg(script);
            command
        };
        let mut lines = Vec::new();
        let run = workspace.run(shell("echo a >&2; cat; echo b >&2"), "input", |line| {
            lines.push(line.to_owned());
        });
        assert_eq!(run.await.unwrap(), "input");
        assert_eq!(lines, ["a", "b"]);
        let failed = workspace.run(shell("echo why; exit 3"), "", |_| ()).await.unwrap_err();
        assert_eq!(
            failed.to_string(),
            "`/bin/sh -c 'echo why; exit 3'` failed: exit status: 3\n    why"
        );
        workspace.close().await.unwrap();
    }

    #[tokio::test]
    async fn a_server_that_ends_is_not_waited_for() {
        let mut workspace = Workspace::create(Interrupt::never()).unwrap();
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg("echo no port; exit 1");
        let started = workspace.serve("server", command, Signal::TERM, async || false).await;
        let said = started.unwrap_err().to_string();
        assert!(said.ends_with("ended by itself: exit status: 1\n    no port"), "{said}");
        assert!(workspace.close().await.is_err());
    }

    #[test]
    fn commands_are_shown_as_one_would_type_them() {
        let mut command = Command::new("/bin/echo");
        command.args(["-n", "", "it's", "a=b"]);
        assert_eq!(shown(&command), r"/bin/echo -n '' 'it'\''s' a=b");
    }
}
