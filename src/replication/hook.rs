//! Places at which a test can end the process, to see that nothing depends on getting further.

/// Ends the process at once if `PGTANDEM_FAULT` says so, as `place` or `place:n` for the n-th time
/// that it is reached. Builds for release do not look.
#[cfg(debug_assertions)]
pub(super) fn reached(place: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("PGTANDEM_FAULT").ok()?;
        let (place, times) = text.split_once(':').unwrap_or((&text, "1"));
        Some((place.to_owned(), AtomicU64::new(times.parse().ok()?)))
    });
    if let Some((wanted, left)) = wanted
        && wanted == place
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}

/// Does nothing.
#[cfg(not(debug_assertions))]
pub(super) fn reached(_place: &str) {}
