//! Shows what [`table`](super::table) lists in Prometheus' text format.
//!
//! The series of the process and its workers are always the same: they are `metrics-exporter-
//! prometheus`' own. Those of pools come and go, and are many: they are written straight from the
//! cells, with its formatting. So are times that add up; its counters have no fractions, and its
//! histograms keep every single value until they are shown.
//!
//! What workers report grows, but may begin anew when a pool does, and is missing when a worker does
//! not answer. So what is shown is the sum of what was added since the last time: it only grows.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::{Display, Write};
use std::time::Duration;

use metrics::{Counter, Gauge, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::formatting::{write_help_line, write_type_line};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::cells::{Cells, States};
use super::histogram::{BOUNDS_SECONDS, Histogram};
use super::replication::{PRIMARY, PrimarySample, SECONDARY, SecondarySample};
use super::table::{
    Metric, POOL, PROCESS, PoolSample, ProcessSample, Reading, WORKER, WorkerSample,
};

/// The label of everything that the configuration does not name.
pub const ANY: &str = "*";

/// Pools of databases or users that are not configured by name, but have labels of their own all the
/// same. LIMIT: the others share those of [`ANY`].
const AUTOMATIC_MAX: usize = 200;

/// The labels of a pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolLabels {
    /// The database as clients call it.
    pub database: String,
    /// The user as clients log in.
    pub user: String,
}

/// What one worker reports of one pool.
#[derive(Debug, Clone)]
pub struct Share {
    /// Which worker.
    pub worker: usize,
    /// The number of the pool; never used again for another one.
    pub pool: u32,
    /// Its own names.
    pub names: PoolLabels,
    /// The same, but [`ANY`] where the configuration has no such name.
    pub configured: PoolLabels,
    /// Whether a server has accepted the names, so that they are not made up.
    pub is_proven: bool,
    /// What was done.
    pub cells: Cells,
    /// How things stand.
    pub states: States,
    /// Server connections that the pool may have.
    pub size: u32,
    /// Server connections that it may have on top.
    pub reserve: u32,
    /// What keeps its clients from servers.
    pub hindered: Hindered,
}

/// What keeps the clients of a pool from servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hindered {
    /// Whether PAUSE or KILL holds.
    pub is_paused: bool,
    /// Whether no server would do when one was asked for last.
    pub is_lost: bool,
}

/// Everything that is to be shown.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Pools that are shown although nobody may have used them yet.
    pub configured: BTreeSet<PoolLabels>,
    /// What the workers report of pools.
    pub shares: Vec<Share>,
    /// The workers; one that is not up has reported nothing.
    pub workers: Vec<WorkerSample>,
    /// The process.
    pub process: ProcessSample,
    /// Databases with secondaries.
    pub primaries: Vec<(String, PrimarySample)>,
    /// Secondaries by the database and themselves.
    pub secondaries: Vec<(String, String, SecondarySample)>,
}

/// All series.
pub struct Exposition {
    recorder: PrometheusRecorder,
    process: Option<Series>,
    workers: Vec<(Series, WorkerSample)>,
    /// By labels, and with them as they are written.
    pools: BTreeMap<PoolLabels, (String, PoolSample)>,
    /// What each worker reported of each pool last.
    seen: HashMap<(usize, u32), Cells>,
    /// Pools that have labels of their own without being configured.
    automatic: HashSet<u32>,
}

impl std::fmt::Debug for Exposition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exposition").field("pools", &self.pools.len()).finish_non_exhaustive()
    }
}

impl Default for Exposition {
    fn default() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        describe(&recorder, PROCESS);
        describe(&recorder, WORKER);
        Self {
            recorder,
            process: None,
            workers: Vec::new(),
            pools: BTreeMap::new(),
            seen: HashMap::new(),
            automatic: HashSet::new(),
        }
    }
}

impl Exposition {
    /// Takes what is to be shown now, and shows it.
    pub fn render(&mut self, snapshot: Snapshot) -> String {
        let Snapshot { configured, shares, workers, process, primaries, secondaries } = snapshot;
        let answered: Vec<bool> = workers.iter().map(|worker| worker.is_up).collect();
        self.add_pools(&configured, shares, &answered);
        self.add_workers(&workers);
        let own = self.process.get_or_insert_with(|| Series::new(&self.recorder, PROCESS, &[]));
        own.set(PROCESS, &process);
        let mut out = self.recorder.handle().render();
        let process = [(own.labels.as_str(), &process)];
        write_samples(&mut out, PROCESS, &process, Reading::has_no_handle);
        let workers: Vec<_> =
            self.workers.iter().map(|(series, worker)| (series.labels.as_str(), worker)).collect();
        write_samples(&mut out, WORKER, &workers, Reading::has_no_handle);
        let pools: Vec<_> =
            self.pools.values().map(|(labels, pool)| (labels.as_str(), pool)).collect();
        write_samples(&mut out, POOL, &pools, |_| true);
        write_replication(&mut out, &primaries, &secondaries);
        out
    }

    fn add_workers(&mut self, samples: &[WorkerSample]) {
        for (at, sample) in samples.iter().enumerate() {
            if self.workers.len() <= at {
                let number = at.to_string();
                let series = Series::new(&self.recorder, WORKER, &[("worker", &number)]);
                self.workers.push((series, WorkerSample::default()));
            }
            let Some((series, known)) = self.workers.get_mut(at) else { continue };
            // Of one that does not answer only that is new.
            *known = if sample.is_up { *sample } else { WorkerSample { is_up: false, ..*known } };
            series.set(WORKER, known);
        }
    }

    fn add_pools(
        &mut self,
        configured: &BTreeSet<PoolLabels>,
        shares: Vec<Share>,
        answered: &[bool],
    ) {
        let has_answered = |worker: usize| answered.get(worker).copied().unwrap_or(false);
        let reported: HashSet<(usize, u32)> =
            shares.iter().map(|share| (share.worker, share.pool)).collect();
        // What a worker that does not answer has reported before still counts as there.
        self.seen.retain(|key, _| reported.contains(key) || !has_answered(key.0));
        let there: HashSet<u32> =
            self.seen.keys().chain(&reported).map(|(_, pool)| *pool).collect();
        self.automatic.retain(|pool| there.contains(pool));
        for (_, sample) in self.pools.values_mut() {
            *sample = PoolSample { cells: std::mem::take(&mut sample.cells), ..Default::default() };
        }
        let mut shown = configured.clone();
        let mut sized: HashSet<u32> = HashSet::new();
        for share in shares {
            let labels = self.labels(&share);
            let sample = self.pool(&labels);
            sample.states.add(&share.states);
            sample.is_paused |= share.hindered.is_paused;
            sample.is_lost |= share.hindered.is_lost;
            if sized.insert(share.pool) {
                sample.size += u64::from(share.size);
                sample.reserve += u64::from(share.reserve);
            }
            let before = self.seen.entry((share.worker, share.pool)).or_default();
            let added = share.cells.since(before);
            *before = share.cells;
            self.pool(&labels).cells.add(&added);
            shown.insert(labels);
        }
        for labels in configured {
            self.pool(labels);
        }
        let is_complete = answered.iter().all(|answered| *answered);
        self.pools.retain(|labels, _| shown.contains(labels) || !is_complete);
    }

    /// Decides which labels a pool has, so that their number is bounded whatever clients do.
    fn labels(&mut self, share: &Share) -> PoolLabels {
        if share.names == share.configured {
            return share.names.clone();
        }
        let may_have = share.is_proven && self.automatic.len() < AUTOMATIC_MAX;
        if self.automatic.contains(&share.pool) || (may_have && self.automatic.insert(share.pool)) {
            return share.names.clone();
        }
        share.configured.clone()
    }

    fn pool(&mut self, labels: &PoolLabels) -> &mut PoolSample {
        let (_, sample) = self.pools.entry(labels.clone()).or_insert_with(|| {
            let PoolLabels { database, user } = labels;
            let pairs = [("database", encode(database)), ("user", encode(user))];
            (written(&pairs), PoolSample::default())
        });
        sample
    }
}

/// The series of all metrics of one table with the same labels.
struct Series {
    handles: Vec<Handles>,
    /// The labels as they are written, without braces.
    labels: String,
}

/// What holds the values of one metric, in the order in which they are read.
enum Handles {
    Counters(Vec<Counter>),
    Gauges(Vec<Gauge>),
    /// Nothing: see [`Reading::has_no_handle`].
    Written,
}

const METADATA: Metadata<'static> = Metadata::new("pgtandem", Level::INFO, None);

impl Series {
    fn new<S: Default>(
        recorder: &PrometheusRecorder,
        table: &'static [Metric<S>],
        labels: &[(&'static str, &str)],
    ) -> Self {
        let labels: Vec<(&'static str, String)> =
            labels.iter().map(|(name, value)| (*name, encode(value))).collect();
        let nothing = S::default();
        let handles = table.iter().map(|metric| {
            let key = |word: Option<(&'static str, &'static str)>| {
                let own = labels.iter().map(|(name, value)| Label::new(*name, value.clone()));
                let fixed = metric.fixed.iter().copied().chain(word);
                let fixed = fixed.map(|(name, value)| Label::from_static_parts(name, value));
                Key::from_parts(metric.name, own.chain(fixed).collect::<Vec<_>>())
            };
            let counter = |word| recorder.register_counter(&key(word), &METADATA);
            let gauge = |word| recorder.register_gauge(&key(word), &METADATA);
            match metric.reading {
                Reading::Counter(_) => Handles::Counters(vec![counter(None)]),
                Reading::Gauge(_) => Handles::Gauges(vec![gauge(None)]),
                Reading::Counters(label, read) => Handles::Counters(
                    read(&nothing)
                        .into_iter()
                        .map(|(word, _)| counter(Some((label, word))))
                        .collect(),
                ),
                Reading::Gauges(label, read) => Handles::Gauges(
                    read(&nothing)
                        .into_iter()
                        .map(|(word, _)| gauge(Some((label, word))))
                        .collect(),
                ),
                Reading::Seconds(_) | Reading::Histogram(_) => Handles::Written,
            }
        });
        Self { handles: handles.collect(), labels: written(&labels) }
    }

    /// Sets all that has a handle.
    fn set<S>(&self, table: &'static [Metric<S>], sample: &S) {
        for (metric, handles) in table.iter().zip(&self.handles) {
            match (&metric.reading, handles) {
                (Reading::Counter(read), Handles::Counters(counters)) => {
                    for counter in counters {
                        counter.absolute(read(sample));
                    }
                }
                (Reading::Counters(_, read), Handles::Counters(counters)) => {
                    for (counter, (_, value)) in counters.iter().zip(read(sample)) {
                        counter.absolute(value);
                    }
                }
                (Reading::Gauge(read), Handles::Gauges(gauges)) => {
                    for gauge in gauges {
                        gauge.set(read(sample));
                    }
                }
                (Reading::Gauges(_, read), Handles::Gauges(gauges)) => {
                    for (gauge, (_, value)) in gauges.iter().zip(read(sample)) {
                        gauge.set(value);
                    }
                }
                (
                    Reading::Counter(_)
                    | Reading::Counters(..)
                    | Reading::Seconds(_)
                    | Reading::Gauge(_)
                    | Reading::Gauges(..)
                    | Reading::Histogram(_),
                    Handles::Counters(_) | Handles::Gauges(_) | Handles::Written,
                ) => {}
            }
        }
    }
}

fn describe<S>(recorder: &PrometheusRecorder, table: &'static [Metric<S>]) {
    for metric in table {
        let name = KeyName::from_const_str(metric.name);
        match metric.reading {
            Reading::Counter(_) | Reading::Counters(..) => {
                recorder.describe_counter(name, None, metric.help.into());
            }
            Reading::Gauge(_) | Reading::Gauges(..) => {
                recorder.describe_gauge(name, None, metric.help.into());
            }
            Reading::Seconds(_) | Reading::Histogram(_) => {}
        }
    }
}

impl<S> Reading<S> {
    /// Says whether the recorder cannot show it.
    fn has_no_handle(&self) -> bool {
        match self {
            Self::Seconds(_) | Self::Histogram(_) => true,
            Self::Counter(_) | Self::Counters(..) | Self::Gauge(_) | Self::Gauges(..) => false,
        }
    }
}

/// Writes those metrics of a table that are `wanted`, for each of `samples` with its labels.
fn write_samples<S>(
    out: &mut String,
    table: &'static [Metric<S>],
    samples: &[(&str, &S)],
    wanted: fn(&Reading<S>) -> bool,
) {
    let mut name = "";
    for metric in table.iter().filter(|metric| wanted(&metric.reading)) {
        // Rows of one name stand behind each other in the table.
        if metric.name != name && !samples.is_empty() {
            name = metric.name;
            write_head(out, metric);
        }
        for (labels, sample) in samples {
            write_sample(out, metric, labels, sample);
        }
    }
}

/// Writes the metrics of primaries and secondaries, whose samples are whole as they come.
fn write_replication(
    out: &mut String,
    primaries: &[(String, PrimarySample)],
    secondaries: &[(String, String, SecondarySample)],
) {
    let labels =
        |(database, _): &(String, PrimarySample)| written(&[("database", encode(database))]);
    let own: Vec<String> = primaries.iter().map(labels).collect();
    let samples = own.iter().zip(primaries);
    let samples: Vec<_> = samples.map(|(own, (_, sample))| (own.as_str(), sample)).collect();
    write_samples(out, PRIMARY, &samples, |_| true);
    let labels = |(database, name, _): &(String, String, SecondarySample)| {
        written(&[("database", encode(database)), ("secondary", encode(name))])
    };
    let own: Vec<String> = secondaries.iter().map(labels).collect();
    let samples = own.iter().zip(secondaries);
    let samples: Vec<_> = samples.map(|(own, (.., sample))| (own.as_str(), sample)).collect();
    write_samples(out, SECONDARY, &samples, |_| true);
}

fn write_head<S>(out: &mut String, metric: &Metric<S>) {
    let kind = match metric.reading {
        Reading::Counter(_) | Reading::Counters(..) | Reading::Seconds(_) => "counter",
        Reading::Gauge(_) | Reading::Gauges(..) => "gauge",
        Reading::Histogram(_) => "histogram",
    };
    write_help_line(out, metric.name, None, None, metric.help);
    write_type_line(out, metric.name, None, None, kind);
}

fn write_sample<S>(out: &mut String, metric: &Metric<S>, labels: &str, sample: &S) {
    let Metric { name, fixed, .. } = metric;
    let mut line = |word: Option<(&str, &str)>, value: &dyn Display| {
        let fixed = fixed.iter().copied().chain(word);
        write_line(out, &[name], labels, fixed, value);
    };
    match metric.reading {
        Reading::Counter(read) => line(None, &read(sample)),
        Reading::Seconds(read) | Reading::Gauge(read) => line(None, &read(sample)),
        Reading::Counters(label, read) => {
            for (word, value) in read(sample) {
                line(Some((label, word)), &value);
            }
        }
        Reading::Gauges(label, read) => {
            for (word, value) in read(sample) {
                line(Some((label, word)), &value);
            }
        }
        Reading::Histogram(read) => write_histogram(out, name, labels, read(sample)),
    }
}

fn write_histogram(out: &mut String, name: &str, labels: &str, histogram: &Histogram) {
    let bounds = BOUNDS_SECONDS.into_iter().chain(["+Inf"]);
    let mut count = 0;
    for (bound, in_bucket) in bounds.zip(histogram.buckets()) {
        count += in_bucket;
        write_line(out, &[name, "_bucket"], labels, [("le", bound)], &count);
    }
    let sum = Duration::from_micros(histogram.sum_us()).as_secs_f64();
    write_line(out, &[name, "_sum"], labels, [], &sum);
    write_line(out, &[name, "_count"], labels, [], &count);
}

/// Writes one series; `labels` as [`written`] has them, `more` are fixed words.
fn write_line<'a>(
    out: &mut String,
    name: &[&str],
    labels: &str,
    more: impl IntoIterator<Item = (&'a str, &'a str)>,
    value: &dyn Display,
) {
    out.extend(name.iter().copied());
    let mut opening = "{";
    if !labels.is_empty() {
        out.extend([opening, labels]);
        opening = ",";
    }
    for (label, word) in more {
        out.extend([opening, label, "=\"", word, "\""]);
        opening = ",";
    }
    if opening == "," {
        out.push('}');
    }
    // Writing to a string cannot fail.
    let _ = writeln!(out, " {value}");
}

/// Labels as they are written, without braces. Values are [encoded](encode).
fn written(labels: &[(&'static str, String)]) -> String {
    let pairs = labels.iter().map(|(name, value)| format!("{name}=\"{value}\""));
    pairs.collect::<Vec<_>>().join(",")
}

/// Makes a name fit for a label without escapes, and for one only.
fn encode(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '\\' | '"' | '%' | '\0'..='\x1f' | '\x7f' => {
                let _ = write!(text, "%{:02X}", u32::from(c));
            }
            _ => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests;
