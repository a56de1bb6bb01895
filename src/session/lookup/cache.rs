//! Answers that may be used again for a while, without a clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::{Found, Target};

/// LIMIT: answers that are remembered.
const ENTRIES_MAX: usize = 10_000;

/// Who was asked, what, and about whom.
type Key = (Target, Arc<str>, String);

/// Answers, and until when they count.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: HashMap<Key, (Found, Instant)>,
}

impl Cache {
    pub(super) fn get(
        &self,
        target: &Target,
        query: &Arc<str>,
        user: &str,
        now: Instant,
    ) -> Option<Found> {
        let key = (target.clone(), Arc::clone(query), user.to_owned());
        let (found, until) = self.entries.get(&key)?;
        (now < *until).then(|| found.clone())
    }

    pub(super) fn put(
        &mut self,
        target: Target,
        query: &Arc<str>,
        user: &str,
        found: Found,
        until: Instant,
    ) {
        if self.entries.len() >= ENTRIES_MAX {
            // Whoever fills it in one lifetime asks about users who do not exist.
            self.entries.clear();
        }
        self.entries.insert((target, Arc::clone(query), user.to_owned()), (found, until));
    }

    pub(super) fn remove(&mut self, target: &Target, query: &Arc<str>, user: &str) {
        self.entries.remove(&(target.clone(), Arc::clone(query), user.to_owned()));
    }

    /// Forgets what does not count any more.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.entries.retain(|_, (_, until)| now < *until);
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Host, Server};

    fn target(database: &str) -> Target {
        Target {
            servers: [Server { host: Host::Tcp("h".to_owned()), port: 1 }].into(),
            database: database.to_owned(),
            dbname: database.to_owned(),
            user: "u".to_owned(),
        }
    }

    #[test]
    fn an_answer_counts_for_its_question_until_its_time() {
        let (now, query): (_, Arc<str>) = (Instant::now(), Arc::from("q"));
        let until = now + Duration::from_secs(1);
        let mut cache = Cache::default();
        cache.put(target("a"), &query, "x", Found::NoUser, until);
        assert_eq!(cache.get(&target("a"), &query, "x", now), Some(Found::NoUser));
        assert_eq!(cache.get(&target("a"), &query, "x", until), None);
        assert_eq!(cache.get(&target("b"), &query, "x", now), None);
        assert_eq!(cache.get(&target("a"), &Arc::from("r"), "x", now), None);
        assert_eq!(cache.get(&target("a"), &query, "y", now), None);
        cache.remove(&target("a"), &query, "x");
        assert_eq!(cache.get(&target("a"), &query, "x", now), None);
    }

    #[test]
    fn it_never_holds_more_than_its_bound() {
        let (now, query): (_, Arc<str>) = (Instant::now(), Arc::from("q"));
        let mut cache = Cache::default();
        for user in 0..=ENTRIES_MAX {
            cache.put(target("a"), &query, &user.to_string(), Found::NoUser, now);
        }
        assert!(cache.entries.len() <= ENTRIES_MAX);
    }
}
