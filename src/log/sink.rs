//! Where lines go: a thread of its own writes them, so that nobody waits for a slow disk, a full pipe
//! or a busy system log.
//!
//! Lines wait in a bounded queue. When it is full, lines are dropped and counted, and the number is
//! written when there is room again. Each line is written whole, by one call.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::limit::Limits;
use super::syslog::{self, Syslog, Tag};

/// LIMIT: lines that wait to be written.
const LINES_MAX: usize = 4096;

/// LIMIT: bytes of one line; what is longer is cut.
const LINE_BYTES_MAX: usize = 4096;

/// How long the system's log is left alone after it failed.
const SYSLOG_PAUSE: Duration = Duration::from_secs(1);

/// Between two lines about lost lines.
const LOSS_PAUSE: Duration = Duration::from_secs(1);

/// Where to write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// A file to append to.
    pub file: Option<PathBuf>,
    /// The system's log.
    pub syslog: Option<Tag>,
}

/// What the writing thread is given.
enum Item {
    Line(Level, Box<[u8]>),
    /// Look at [`Shared::target`].
    Wake,
    /// Answer when everything before is written.
    Flush(SyncSender<()>),
}

#[derive(Debug, Default)]
struct Shared {
    /// Lines that nobody will see.
    dropped: AtomicU64,
    /// Where to write from now on, opened already.
    target: Mutex<Option<Open>>,
}

/// The way to the writing thread.
#[derive(Debug, Clone)]
pub struct Sink {
    queue: SyncSender<Item>,
    shared: Arc<Shared>,
}

impl Sink {
    /// Starts the thread. It says on its own what `limits` has left out.
    ///
    /// # Errors
    /// The file cannot be opened, or the system refuses a thread.
    pub fn start(target: &Target, limits: &'static Limits) -> io::Result<Self> {
        let open = Open::new(target)?;
        let (queue, items) = sync_channel(LINES_MAX);
        let shared = Arc::new(Shared::default());
        let shared_too = Arc::clone(&shared);
        let writer = Writer { items, shared: shared_too, open, limits, next_loss: None };
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run())?;
        Ok(Self { queue, shared })
    }

    /// Opens `target`, also if it is the same as before: a file may have been renamed meanwhile.
    ///
    /// # Errors
    /// The file cannot be opened; lines go where they went before.
    pub fn retarget(&self, target: &Target) -> io::Result<()> {
        let open = Open::new(target)?;
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(open);
        // Where the queue is full the thread looks after the next line.
        let _ = self.queue.try_send(Item::Wake);
        Ok(())
    }

    /// Waits until everything is written that was logged before, for at most `limit`.
    pub fn flush(&self, limit: Duration) {
        let (done, is_done) = sync_channel(1);
        if self.queue.try_send(Item::Flush(done)).is_ok() {
            let _ = is_done.recv_timeout(limit);
        }
    }

    /// Takes one line; never waits.
    fn take(&self, level: Level, line: &[u8]) {
        let line = match line.get(..LINE_BYTES_MAX) {
            Some(cut) if line.len() > LINE_BYTES_MAX => [cut, b"...\n"].concat().into(),
            _ => line.into(),
        };
        if self.queue.try_send(Item::Line(level, line)).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Takes the bytes of one event.
#[derive(Debug)]
pub struct Line<'a> {
    sink: &'a Sink,
    level: Level,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.take(self.level, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { sink: self, level: Level::INFO }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        Line { sink: self, level: *meta.level() }
    }
}

/// The opened [`Target`]; standard error if there is neither file nor system log.
#[derive(Debug)]
struct Open {
    file: Option<File>,
    syslog: Option<(Tag, Option<Syslog>)>,
    /// When to try the system's log again.
    retry_at: Option<Instant>,
}

impl Open {
    fn new(target: &Target) -> io::Result<Self> {
        let file = target.file.as_deref().map(append_to).transpose()?;
        let syslog = target.syslog.clone().map(|tag| (tag, None));
        Ok(Self { file, syslog, retry_at: None })
    }

    /// Writes a line; `false` if somebody did not take it.
    fn write(&mut self, level: Level, line: &[u8]) -> bool {
        let mut is_written = true;
        if let Some(file) = &mut self.file {
            is_written &= file.write_all(line).is_ok();
        }
        if self.syslog.is_some() {
            is_written &= self.write_syslog(level, line, Path::new(syslog::SOCKET)).is_some();
        }
        if self.file.is_none() && self.syslog.is_none() {
            is_written &= io::stderr().write_all(line).is_ok();
        }
        is_written
    }

    fn write_syslog(&mut self, level: Level, line: &[u8], path: &Path) -> Option<()> {
        let (tag, connection) = self.syslog.as_mut()?;
        let datagram = tag.datagram(level, SystemTime::now(), without_time(line));
        // Restarted since the last line: its old socket is dead, a new one is there.
        if let Some(syslog) = connection
            && syslog.send(&datagram).is_ok()
        {
            return Some(());
        }
        *connection = None;
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return None;
        }
        let sent = Syslog::connect(path).and_then(|new| new.send(&datagram).map(|()| new));
        let Ok(new) = sent else {
            self.retry_at = Instant::now().checked_add(SYSLOG_PAUSE);
            return None;
        };
        *connection = Some(new);
        self.retry_at = None;
        Some(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Takes the time off a line of text: the system's log has its own.
fn without_time(line: &[u8]) -> &[u8] {
    if line.first().is_none_or(|first| !first.is_ascii_digit()) {
        return line;
    }
    let end = line.iter().position(|byte| *byte == b' ');
    end.and_then(|end| line.get(end..)).unwrap_or(line).trim_ascii_start()
}

/// The writing thread.
struct Writer {
    items: Receiver<Item>,
    shared: Arc<Shared>,
    open: Open,
    limits: &'static Limits,
    /// When lost lines may be mentioned again.
    next_loss: Option<Instant>,
}

impl Writer {
    fn run(mut self) {
        let mut next_sum = None;
        while let Some(item) = self.next(next_sum) {
            let target = self.shared.target.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(open) = target {
                self.open = open;
            }
            match item {
                Item::Line(level, line) => self.write(level, &line),
                Item::Flush(done) => drop(done.try_send(())),
                Item::Wake => {}
            }
            let overdue;
            (overdue, next_sum) = self.limits.take_overdue(Instant::now());
            for (kind, count) in overdue {
                tracing::warn!(kind, count, "similar lines left out");
            }
        }
    }

    /// Waits for something to do; `None` at the end.
    fn next(&self, until: Option<Instant>) -> Option<Item> {
        let Some(until) = until else { return self.items.recv().ok() };
        let patience = until.saturating_duration_since(Instant::now());
        match self.items.recv_timeout(patience) {
            Ok(item) => Some(item),
            Err(RecvTimeoutError::Timeout) => Some(Item::Wake),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn write(&mut self, level: Level, line: &[u8]) {
        if !self.open.write(level, line) {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        } else if self.shared.dropped.load(Ordering::Relaxed) > 0
            && self.next_loss.is_none_or(|at| Instant::now() >= at)
        {
            self.next_loss = Instant::now().checked_add(LOSS_PAUSE);
            let count = self.shared.dropped.swap(0, Ordering::Relaxed);
            tracing::warn!(count, "log lines lost: they could not be written in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    static LIMITS: Limits = Limits::new();

    fn sink(file: &Path) -> Sink {
        let target = Target { file: Some(file.to_owned()), syslog: None };
        Sink::start(&target, &LIMITS).unwrap()
    }

    #[test]
    fn lines_are_written_whole_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "old\n").unwrap();
        let sink = sink(&path);
        for text in ["one\n", "two\n"] {
            sink.make_writer().write_all(text.as_bytes()).unwrap();
        }
        let long = vec![b'x'; LINE_BYTES_MAX * 2];
        sink.make_writer().write_all(&long).unwrap();
        sink.flush(Duration::from_secs(10));
        let written = std::fs::read_to_string(&path).unwrap();
        assert!(written.starts_with("old\none\ntwo\nxxx") && written.ends_with("xxx...\n"));
        assert_eq!(written.len(), "old\none\ntwo\n...\n".len() + LINE_BYTES_MAX);
    }

    #[test]
    fn a_renamed_file_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let sink = sink(&path);
        sink.take(Level::INFO, b"one\n");
        sink.flush(Duration::from_secs(10));
        std::fs::rename(&path, folder.path().join("log.1")).unwrap();
        sink.retarget(&Target { file: Some(path.clone()), syslog: None }).unwrap();
        sink.take(Level::INFO, b"two\n");
        sink.flush(Duration::from_secs(10));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
        let nowhere = Target { file: Some(folder.path().join("no/log")), syslog: None };
        assert!(sink.retarget(&nowhere).is_err());
        sink.take(Level::INFO, b"three\n");
        sink.flush(Duration::from_secs(10));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\nthree\n");
    }

    /// A reader that does not read must not hold anybody up.
    #[test]
    fn a_full_pipe_costs_lines_and_no_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        // Opened for both, so that neither side waits for the other.
        let pipe = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let sink = sink(&path);
        let line = [&[b'x'; 1000][..], b"\n"].concat();
        for _ in 0..LINES_MAX * 2 {
            sink.take(Level::INFO, &line);
        }
        assert!(sink.shared.dropped.load(Ordering::Relaxed) >= 1000);
        drop(pipe);
    }

    #[test]
    fn the_systems_log_gets_lines_without_time_and_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let tag = Tag { ident: "pgtandem".to_owned(), facility: "daemon".to_owned() };
        let target = Target { file: None, syslog: Some(tag) };
        let mut open = Open::new(&target).unwrap();
        for _ in 0..2 {
            let _ = std::fs::remove_file(&path);
            let system = UnixDatagram::bind(&path).unwrap();
            open.write_syslog(Level::INFO, b"2026-11-22T21:43:23Z  INFO hello\n", &path).unwrap();
            let mut buffer = [0; 256];
            let length = system.recv(&mut buffer).unwrap();
            let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
            assert!(line.starts_with("<30>") && line.ends_with("]: INFO hello"), "{line}");
        }
        std::fs::remove_file(&path).unwrap();
        for _ in 0..3 {
            assert_eq!(open.write_syslog(Level::INFO, b"{}", &path), None);
        }
    }
}
