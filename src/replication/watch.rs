//! Finds out that a server does not answer any more, however long an answer may take.
//!
//! A statement may take hours and say nothing, and so may a server that is stopped, or a network that
//! swallows packets. So silence alone ends nothing: whoever has heard nothing for [`SILENCE`] asks
//! the server over another connection whether it still knows this one. No answer ends the
//! connection, and with it whatever waits for it. That bounds every wait at once: of the task that
//! applies, of copies, of verification, and of what keeps the change log small.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// How long neither side may say anything before the server is asked.
pub(super) const SILENCE: Duration = Duration::from_secs(5);

/// How long the server may take to answer then; also bounded by how long connecting may take.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// When bytes went in or out last, and which process of the server is at the other end.
#[derive(Debug)]
pub(super) struct Heard {
    began: Instant,
    last_ms: AtomicU64,
    server_pid: AtomicI32,
    silence: Duration,
    answer: Duration,
}

impl Heard {
    /// Counts from now on.
    pub(super) fn new() -> Arc<Self> {
        Self::with(SILENCE, ANSWER)
    }

    fn with(silence: Duration, answer: Duration) -> Arc<Self> {
        let (last_ms, server_pid) = (AtomicU64::new(0), AtomicI32::new(0));
        Arc::new(Self { began: Instant::now(), last_ms, server_pid, silence, answer })
    }

    /// Remembers who is at the other end.
    pub(super) fn know(&self, server_pid: i32) {
        self.server_pid.store(server_pid, Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn note(&self) {
        self.last_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn last(&self) -> u64 {
        self.last_ms.load(Ordering::Relaxed)
    }

    /// Returns once the server does not answer, or does not know the connection any more.
    ///
    /// `ask` asks it, given the process at the other end; it is bounded in time by [`ANSWER`].
    pub(super) async fn until_lost<A: Future<Output = bool>>(&self, ask: impl Fn(i32) -> A) {
        loop {
            let silent = Duration::from_millis(self.now_ms().saturating_sub(self.last()));
            if let Some(rest) = self.silence.checked_sub(silent).filter(|rest| !rest.is_zero()) {
                tokio::time::sleep(rest).await;
                continue;
            }
            let before = self.last();
            let asked = ask(self.server_pid.load(Ordering::Relaxed));
            let is_alive = tokio::time::timeout(self.answer, asked).await.unwrap_or(false);
            // Something may have come meanwhile; that is an answer too.
            if !is_alive && self.last() == before {
                return;
            }
            tokio::time::sleep(self.silence).await;
        }
    }
}

/// A stream that remembers when something went through it.
pub(super) struct Watched<S> {
    inner: S,
    heard: Arc<Heard>,
}

impl<S> Watched<S> {
    /// Takes over a connected stream.
    pub(super) fn new(inner: S, heard: Arc<Heard>) -> Self {
        Self { inner, heard }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(context, buffer));
        self.heard.note();
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, bytes));
        self.heard.note();
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[tokio::test]
    async fn silence_alone_ends_nothing() {
        let short = Duration::from_millis(5);
        let (heard, asked) = (Heard::with(short, short), AtomicUsize::new(0));
        heard.know(7);
        let lost = heard.until_lost(|pid| {
            assert_eq!(pid, 7);
            let times = asked.fetch_add(1, Ordering::Relaxed);
            // The first three times it answers, then never again.
            async move { if times < 3 { true } else { std::future::pending().await } }
        });
        let given_up = tokio::time::timeout(Duration::from_mins(10), lost).await;
        given_up.expect("it is given up");
        assert_eq!(asked.load(Ordering::Relaxed), 4);
    }
}
