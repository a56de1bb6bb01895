//! What the system says of this process.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::param::page_size;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::table::ProcessSample;

/// Fills in what the system knows of this process. What it does not tell stays 0.
pub fn observe(sample: &mut ProcessSample) {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    sample.cpu = Duration::try_from(cpu).unwrap_or_default();
    let [virtual_pages, resident_pages] = pages();
    let page_bytes = u64::try_from(page_size()).unwrap_or(0);
    sample.virtual_bytes = virtual_pages * page_bytes;
    sample.resident_bytes = resident_pages * page_bytes;
    sample.open_fds = open_fds();
    sample.max_fds = getrlimit(Resource::Nofile).current.unwrap_or(0);
}

/// Says how long ago 1970 was at `moment`.
pub fn since_1970(moment: SystemTime) -> Duration {
    moment.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The first two fields of proc(5)'s `statm`: all pages, and those in RAM.
fn pages() -> [u64; 2] {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut fields = text.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0));
    [fields.next().unwrap_or(0), fields.next().unwrap_or(0)]
}

/// Since Linux 6.2 the length of the folder says it; before, its entries are counted.
fn open_fds() -> u64 {
    const FOLDER: &str = "/proc/self/fd";
    match fs::metadata(FOLDER).map(|metadata| metadata.len()) {
        Ok(length) if length > 0 => length,
        _ => fs::read_dir(FOLDER).map_or(0, |entries| {
            // One of them is this look itself.
            u64::try_from(entries.count()).unwrap_or(0).saturating_sub(1)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells_everything() {
        let mut sample = ProcessSample::default();
        observe(&mut sample);
        assert!(sample.cpu > Duration::ZERO);
        assert!(sample.resident_bytes > 1 << 20, "{sample:?}");
        assert!(sample.virtual_bytes >= sample.resident_bytes, "{sample:?}");
        assert!((3..=sample.max_fds).contains(&sample.open_fds), "{sample:?}");
        let opened: Vec<_> = (0..10).map(|_| fs::File::open("/proc/self/statm")).collect();
        assert!(opened.iter().all(Result::is_ok));
        let mut later = ProcessSample::default();
        observe(&mut later);
        assert!(later.open_fds >= 10, "{later:?}");
    }
}
