//! The net effect of changes on rows that exist or not: pure bookkeeping, no I/O.
//!
//! Changes come in the order of their ids. Of two transactions that change one row, all changes of
//! the earlier come first. Within a transaction the versions of the row tell the order: what counts
//! is the version that nobody made (so the row was there before) and the one that nobody replaced
//! (so the row is there after). What could not have happened is an error, never a guess.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use super::change::{Action, Change, RowKey, Version};

/// Greater than the ids of changes that stand for those before, and smaller than all others.
const BEFORE: i64 = 0;

/// The net effect on all tables, by their number.
#[derive(Debug, Default)]
pub struct NetEffect {
    tables: BTreeMap<i32, NetTable>,
    rows: u64,
    bytes: u64,
}

/// The net effect on one table: first all truncated, then rows deleted, updated, inserted.
#[derive(Debug, Default)]
pub struct NetTable {
    /// Whether the table is emptied before anything else.
    pub is_truncated: bool,
    rows: HashMap<RowKey, Row>,
}

/// What became of the row of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    /// By all transactions but the one of `xid`; `None` if no other has changed it.
    before: Option<Net>,
    /// The last transaction that has changed it.
    xid: u64,
    /// Versions that it has replaced or deleted, and not made.
    replaced: Vec<Option<Version>>,
    /// Versions that it has made, and not replaced or deleted, with their images.
    made: Vec<Made>,
    /// The last change, for messages.
    id: i64,
}

/// A version that a change has replaced or deleted, if it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Replaced(Option<Version>);

/// A version that a change has made, if it is known, with its image.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Made {
    version: Option<Version>,
    image: String,
}

/// One change of one row.
struct Step {
    id: i64,
    xid: u64,
    replaced: Option<Replaced>,
    made: Option<Made>,
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Net {
    /// Was not there, is there.
    Inserted(String),
    /// Was there, is there; perhaps it was gone in between.
    Updated(String),
    /// Was there, is not.
    Deleted,
    /// Was not there, is not.
    Vanished,
}

/// A change that cannot have happened after those before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("change {id} of table {table}, key {key:?}, cannot follow those before it: {what}")]
pub struct Impossible {
    /// The change.
    pub id: i64,
    /// Its table's number.
    pub table: i32,
    /// The row's key.
    pub key: RowKey,
    /// In which way.
    pub what: &'static str,
}

/// Rows to delete, update and insert in one table, each key once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Keys of rows that are there and go.
    pub deletes: Vec<RowKey>,
    /// Keys and images of rows that are there and stay.
    pub updates: Vec<(RowKey, String)>,
    /// Keys and images of rows that are not there, once `deletes` is done, and come.
    pub inserts: Vec<(RowKey, String)>,
}

/// How a row that stays is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// By UPDATE.
    InPlace,
    /// By DELETE, and INSERT once all deletes are done: for tables where something else than the key
    /// is unique and may change hands, or where a column cannot be updated.
    ByReplacing,
}

impl NetEffect {
    /// Adds the next change; an update must leave the key as it is.
    ///
    /// # Errors
    /// [`Impossible`]; nothing is to be applied then.
    pub fn add(&mut self, change: Change) -> Result<(), Impossible> {
        let Change { id, xid, table, action } = change;
        let net = self.tables.entry(table).or_default();
        let (key, replaced, made) = match action {
            Action::Truncate => {
                net.is_truncated = true;
                for (key, row) in net.rows.drain() {
                    self.rows -= 1;
                    self.bytes -= size(&key) + row.size();
                }
                return Ok(());
            }
            Action::Insert { key, image, now } => (key, None, Some(Made { version: now, image })),
            Action::Update { key, image, was, now } => {
                (key, Some(Replaced(was)), Some(Made { version: now, image }))
            }
            Action::Delete { key, was } => (key, Some(Replaced(was)), None),
        };
        let change = net.change(key, Step { id, xid, replaced, made });
        let (rows, grown, shrunk) =
            change.map_err(|(key, what)| Impossible { id, table, key, what })?;
        self.rows += rows;
        self.bytes = self.bytes + grown - shrunk;
        Ok(())
    }

    /// Takes out what there is to do in some tables, before a definition that has to do with them; and
    /// if one of them was emptied, in all that were, as they may refer to each other.
    ///
    /// # Errors
    /// [`Impossible`]; nothing is to be applied then.
    pub fn take(&mut self, numbers: &[i32]) -> Result<Vec<(i32, NetTable)>, Impossible> {
        let is_emptied = |number: &i32| self.tables.get(number).is_some_and(|t| t.is_truncated);
        let has_emptied = numbers.iter().any(is_emptied);
        let is_taken = |number: &i32, net: &mut NetTable| {
            numbers.contains(number) || has_emptied && net.is_truncated
        };
        let tables: BTreeMap<i32, NetTable> = self.tables.extract_if(.., is_taken).collect();
        let mut taken = Self { tables, ..Self::default() };
        for (key, row) in taken.tables.values().flat_map(|net| &net.rows) {
            self.rows -= 1;
            self.bytes -= size(key) + row.size();
        }
        (taken.rows, taken.bytes) = (0, 0);
        taken.finish()
    }

    /// Forgets what there is to do in a table.
    pub fn forget(&mut self, number: i32) {
        for (key, row) in self.tables.remove(&number).iter().flat_map(|net| &net.rows) {
            self.rows -= 1;
            self.bytes -= size(key) + row.size();
        }
    }

    /// The tables that it is about.
    pub fn numbers(&self) -> impl Iterator<Item = i32> {
        self.tables.keys().copied()
    }

    /// The transactions that have changed the rows of a table last.
    pub fn transactions(&self, table: i32) -> impl Iterator<Item = u64> {
        self.tables.get(&table).into_iter().flat_map(|net| net.rows.values().map(|row| row.xid))
    }

    /// How many rows it is about.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes that it takes in memory, nearly.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Turns it back into changes, fewer as a rule, that have the same effect before those that are
    /// still to come: transactions that have changed a row and are over become one that there is not.
    ///
    /// What came and went in a transaction that may not be over is forgotten.
    pub fn into_changes(self) -> impl Iterator<Item = Change> {
        self.tables.into_iter().flat_map(|(table, net)| {
            let change = move |id, xid, action| Change { id, xid, table, action };
            let truncate = net.is_truncated.then(|| change(BEFORE - 2, 0, Action::Truncate));
            let rows = net.rows.into_iter().flat_map(move |(key, row)| {
                row.into_actions(&key).map(move |(id, xid, action)| change(id, xid, action))
            });
            truncate.into_iter().chain(rows)
        })
    }

    /// Says what there is to do in each table, by its number, in the order of those.
    ///
    /// # Errors
    /// [`Impossible`]; nothing is to be applied then.
    pub fn finish(self) -> Result<Vec<(i32, NetTable)>, Impossible> {
        let mut tables = Vec::with_capacity(self.tables.len());
        for (table, mut net) in self.tables {
            let is_truncated = net.is_truncated;
            for (key, row) in &mut net.rows {
                row.settle(is_truncated).map_err(|what| {
                    let (id, key) = (row.id, key.clone());
                    Impossible { id, table, key, what }
                })?;
            }
            tables.push((table, net));
        }
        Ok(tables)
    }
}

/// The bytes of a key in memory, nearly, with the place of its row.
fn size(key: &RowKey) -> u64 {
    const EACH: usize = 288;
    let parts: usize = key.iter().map(|part| part.len() + 40).sum();
    u64::try_from(EACH + parts).unwrap_or_default()
}

impl NetTable {
    /// Returns how many rows it is about more than before, and the bytes that are more and less.
    fn change(
        &mut self,
        key: RowKey,
        step: Step,
    ) -> Result<(u64, u64, u64), (RowKey, &'static str)> {
        let Step { id, xid, replaced, made } = step;
        let (mut rows, mut grown, mut shrunk) = (0, 0, 0);
        let row = match self.rows.entry(key) {
            Entry::Vacant(entry) => {
                (rows, grown) = (1, size(entry.key()));
                entry.insert(Row { before: None, xid, replaced: vec![], made: vec![], id })
            }
            Entry::Occupied(mut entry) => {
                shrunk = entry.get().size();
                if entry.get().xid != xid {
                    let settled = entry.get_mut().settle(self.is_truncated);
                    settled.map_err(|what| (entry.key().clone(), what))?;
                    entry.get_mut().xid = xid;
                }
                entry.into_mut()
            }
        };
        row.id = id;
        row.change(replaced, made);
        Ok((rows, grown + row.size(), shrunk))
    }

    /// Says what is to be done, in the order of the keys; [`NetEffect::finish`] must have been there.
    pub fn into_work(self, update: Update) -> Work {
        let mut rows: Vec<(RowKey, Row)> = self.rows.into_iter().collect();
        rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut work = Work::default();
        for (key, row) in rows {
            match row.before {
                None | Some(Net::Vanished) => {}
                Some(Net::Deleted) => work.deletes.push(key),
                Some(Net::Inserted(image)) => work.inserts.push((key, image)),
                Some(Net::Updated(image)) => match update {
                    Update::InPlace => work.updates.push((key, image)),
                    Update::ByReplacing => {
                        work.deletes.push(key.clone());
                        work.inserts.push((key, image));
                    }
                },
            }
        }
        work
    }
}

impl Row {
    /// The bytes of its images.
    fn size(&self) -> u64 {
        let before = match &self.before {
            Some(Net::Inserted(image) | Net::Updated(image)) => image.len(),
            Some(Net::Deleted | Net::Vanished) | None => 0,
        };
        let made: usize = self.made.iter().map(|made| made.image.len()).sum();
        u64::try_from(before + made).unwrap_or_default()
    }

    /// Turns it back into changes: their ids, their transactions, and what they do.
    fn into_actions(self, key: &RowKey) -> impl Iterator<Item = (i64, u64, Action)> + use<> {
        let Self { before, xid, replaced, made, id } = self;
        let insert = |image, now| Action::Insert { key: key.clone(), image, now };
        let delete = |was| Action::Delete { key: key.clone(), was };
        let past = match before {
            None => vec![],
            Some(Net::Inserted(image)) => vec![insert(image, None)],
            Some(Net::Updated(image)) => {
                vec![Action::Update { key: key.clone(), image, was: None, now: None }]
            }
            Some(Net::Deleted) => vec![delete(None)],
            Some(Net::Vanished) => vec![insert(String::new(), None), delete(None)],
        };
        let replaced = replaced.into_iter().map(delete);
        let made = made.into_iter().map(|made| insert(made.image, made.version));
        let last: Vec<_> = replaced.chain(made).collect();
        let past = (BEFORE - 1..).zip(past).map(|(id, action)| (id, 0, action));
        past.chain(last.into_iter().map(move |action| (id, xid, action)))
    }

    /// Pairs the versions of one change with those of the other changes of its transaction.
    fn change(&mut self, replaced: Option<Replaced>, made: Option<Made>) {
        let is_insert = replaced.is_none();
        if let Some(Replaced(was)) = replaced {
            // A version that is not known is that of an insert by statement; it is the only one.
            let is_that =
                |made: &Made| made.version == was || made.version.is_none() || was.is_none();
            if let Some(position) = self.made.iter().position(is_that) {
                self.made.remove(position);
            } else {
                self.replaced.reserve_exact(1);
                self.replaced.push(was);
            }
        }
        let Some(made) = made else { return };
        let made_late = match made.version {
            Some(_) => self.replaced.iter().position(|replaced| *replaced == made.version),
            // An insert, after which a row of this key is there twice: it was before the other.
            None if is_insert && !self.made.is_empty() && !self.replaced.is_empty() => Some(0),
            None => None,
        };
        if let Some(position) = made_late {
            self.replaced.remove(position);
        } else {
            // There is one, as a rule.
            self.made.reserve_exact(1);
            self.made.push(made);
        }
    }

    /// Adds what the last transaction did to what those before it did.
    fn settle(&mut self, is_truncated: bool) -> Result<(), &'static str> {
        let was_there = match self.replaced.len() {
            0 => false,
            1 => true,
            _ => return Err("two rows of this key are replaced"),
        };
        let image = self.made.pop().map(|made| made.image);
        if !self.made.is_empty() {
            return Err("two rows of this key are made");
        }
        self.replaced.clear();
        let before = self.before.take().or(is_truncated.then_some(Net::Vanished));
        let is_there = match &before {
            None => was_there,
            Some(Net::Inserted(_) | Net::Updated(_)) => true,
            Some(Net::Deleted | Net::Vanished) => false,
        };
        if was_there && !is_there {
            return Err("changed or deleted where no row is");
        }
        if !was_there && is_there && image.is_some() {
            return Err("inserted where a row is");
        }
        if !was_there && image.is_none() {
            // Came and went.
            self.before = before.or(Some(Net::Vanished));
            return Ok(());
        }
        let was_there_first = match before {
            None => was_there,
            Some(Net::Updated(_) | Net::Deleted) => true,
            Some(Net::Inserted(_) | Net::Vanished) => false,
        };
        self.before = Some(match (was_there_first, image) {
            (true, Some(image)) => Net::Updated(image),
            (true, None) => Net::Deleted,
            (false, Some(image)) => Net::Inserted(image),
            (false, None) => Net::Vanished,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn insert(key: u8, image: u8) -> Action {
        Action::Insert { key: vec![key.to_string()], image: image.to_string(), now: None }
    }

    fn update(key: u8, image: u8) -> Action {
        Action::Update {
            key: vec![key.to_string()],
            image: image.to_string(),
            was: None,
            now: None,
        }
    }

    fn delete(key: u8) -> Action {
        Action::Delete { key: vec![key.to_string()], was: None }
    }

    /// The net effect of these actions, a transaction for each three of them.
    fn net(actions: impl IntoIterator<Item = Action>) -> Result<NetTable, Impossible> {
        let mut net = NetEffect::default();
        for (id, action) in (1..).zip(actions) {
            net.add(Change { id, xid: id.unsigned_abs() / 3, table: 7, action })?;
        }
        Ok(net.finish()?.pop().map(|(_, table)| table).unwrap_or_default())
    }

    #[test]
    fn first_and_last_count() {
        let work = |actions: Vec<Action>| net(actions).unwrap().into_work(Update::InPlace);
        let row = |key: u8, image: u8| (vec![key.to_string()], image.to_string());
        let nothing = Work::default;
        assert_eq!(work(vec![insert(1, 1), update(1, 2), delete(1)]), nothing());
        assert_eq!(
            work(vec![insert(1, 1), update(1, 2)]),
            Work { inserts: vec![row(1, 2)], ..nothing() }
        );
        assert_eq!(
            work(vec![delete(1), insert(1, 3)]),
            Work { updates: vec![row(1, 3)], ..nothing() }
        );
        assert_eq!(
            work(vec![update(1, 1), delete(1)]),
            Work { deletes: vec![vec!["1".to_owned()]], ..nothing() }
        );
        let truncated = net([update(1, 1), Action::Truncate, insert(1, 2)]).unwrap();
        assert!(truncated.is_truncated);
        let inserted = Work { inserts: vec![row(1, 2)], ..nothing() };
        assert_eq!(truncated.into_work(Update::InPlace), inserted);
    }

    #[test]
    fn what_cannot_have_happened() {
        for actions in [
            vec![insert(1, 1), insert(1, 2)],
            vec![delete(1), delete(1)],
            vec![delete(1), update(1, 1)],
            vec![Action::Truncate, update(1, 1)],
            vec![insert(1, 1), Action::Truncate, delete(1)],
            vec![delete(1), update(2, 2), delete(1)],
            vec![update(1, 1), update(2, 2), insert(1, 1)],
        ] {
            let error = net(actions.clone()).unwrap_err();
            assert_eq!((error.table, error.key), (7, vec!["1".to_owned()]), "{actions:?}");
            assert_eq!(usize::try_from(error.id), Ok(actions.len()));
        }
    }

    #[test]
    fn versions_tell_the_order_within_a_transaction() {
        let version = |line| Some(Version { leaf: 0, place: (0, line) });
        let change = |was, now, image: &str| Action::Update {
            key: vec!["1".to_owned()],
            image: image.to_owned(),
            was: version(was),
            now: version(now),
        };
        // A trigger has changed the row once more before the first change of it was logged.
        let work = net([change(2, 3, "later"), change(1, 2, "earlier")]).unwrap();
        let work = work.into_work(Update::InPlace);
        assert_eq!(work.updates, [(vec!["1".to_owned()], "later".to_owned())]);
        let inserted =
            |now| Action::Insert { key: vec!["1".to_owned()], image: "first".into(), now };
        for now in [version(1), None] {
            let work = net([change(1, 2, "later"), inserted(now)]).unwrap();
            let work = work.into_work(Update::InPlace);
            assert_eq!(work.inserts, [(vec!["1".to_owned()], "later".to_owned())]);
        }
    }

    /// The table itself, changed row by row.
    type Model = BTreeMap<RowKey, String>;

    fn happen(model: &mut Model, action: &Action) -> bool {
        match action {
            Action::Truncate => {
                model.clear();
                true
            }
            Action::Insert { key, image, .. } => {
                !model.contains_key(key) && model.insert(key.clone(), image.clone()).is_none()
            }
            Action::Update { key, image, .. } => {
                model.get_mut(key).map(|row| row.clone_from(image)).is_some()
            }
            Action::Delete { key, .. } => model.remove(key).is_some(),
        }
    }

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        let action = prop_oneof![
            6 => (0_u8..6, any::<u8>()).prop_map(|(key, image)| insert(key, image)),
            6 => (0_u8..6, any::<u8>()).prop_map(|(key, image)| update(key, image)),
            6 => (0_u8..6).prop_map(delete),
            1 => Just(Action::Truncate),
        ];
        prop::collection::vec(action, 0..60)
    }

    /// What is left of changes that were turned into fewer in between, a transaction for each three.
    fn net_of_fewer(actions: &[Action], cut: usize) -> NetEffect {
        let mut net = NetEffect::default();
        for (position, (id, action)) in (1..).zip(actions).enumerate() {
            if position == cut {
                let (mut fewer, rows) = (NetEffect::default(), net.rows());
                for change in net.into_changes() {
                    fewer.add(change).unwrap();
                }
                assert!(fewer.rows() <= rows);
                net = fewer;
            }
            let action = action.clone();
            net.add(Change { id, xid: 3 + id.unsigned_abs() / 3, table: 7, action }).unwrap();
            let rows = || net.tables.values().flat_map(|table| &table.rows);
            assert_eq!(usize::try_from(net.rows()).unwrap(), rows().count());
            assert_eq!(net.bytes(), rows().map(|(key, row)| size(key) + row.size()).sum::<u64>());
        }
        net
    }

    /// Versions tell the order where ids do not, also behind a cut.
    #[test]
    fn a_cut_in_the_middle_of_a_transaction() {
        let version = |line| Some(Version { leaf: 0, place: (0, line) });
        let step = |image: u8, was, now| {
            let (key, image) = (vec!["1".to_owned()], image.to_string());
            Action::Update { key, image, was: version(was), now: version(now) }
        };
        // The trigger's change of the row was made after the one that is logged behind it.
        let actions = [step(2, 2, 3), step(1, 1, 2)];
        for cut in 0..2 {
            let net = net_of_fewer(&actions, cut).finish().unwrap().pop().unwrap().1;
            let updates = vec![(vec!["1".to_owned()], "2".to_owned())];
            assert_eq!(net.into_work(Update::InPlace), Work { updates, ..Work::default() });
        }
    }

    proptest! {
        #[test]
        fn fewer_changes_have_the_same_net_effect(actions in actions(), cut in 0_usize..30) {
            let mut rows = Model::new();
            let actions: Vec<Action> =
                actions.into_iter().filter(|action| happen(&mut rows, action)).collect();
            let work = |cut| {
                let table = net_of_fewer(&actions, cut).finish().unwrap().pop();
                table.map(|(_, table)| (table.is_truncated, table.into_work(Update::InPlace)))
            };
            let is_something = |work: &(bool, Work)| work.0 || work.1 != Work::default();
            prop_assert_eq!(work(cut).filter(is_something), work(usize::MAX).filter(is_something));
        }

        #[test]
        fn the_net_effect_is_that_of_all_changes(
            before in prop::collection::btree_map(0_u8..6, any::<u8>(), 0..6),
            actions in actions(),
            by_replacing in any::<bool>(),
        ) {
            let text = |(key, image): (u8, u8)| (vec![key.to_string()], image.to_string());
            let mut expected: Model = before.into_iter().map(text).collect();
            let mut found = expected.clone();
            // What cannot happen to the rows that are there is left out.
            let actions: Vec<Action> =
                actions.into_iter().filter(|action| happen(&mut expected, action)).collect();
            let net = net(actions).unwrap();
            if net.is_truncated {
                found.clear();
            }
            let update = if by_replacing { Update::ByReplacing } else { Update::InPlace };
            let work = net.into_work(update);
            prop_assert!(!by_replacing || work.updates.is_empty());
            let (was, now) = (None, None);
            let deletes = work.deletes.into_iter().map(|key| Action::Delete { key, was });
            let updates = work.updates.into_iter();
            let updates = updates.map(|(key, image)| Action::Update { key, image, was, now });
            let inserts = work.inserts.into_iter();
            let inserts = inserts.map(|(key, image)| Action::Insert { key, image, now });
            for action in deletes.chain(updates).chain(inserts) {
                let happened = happen(&mut found, &action);
                prop_assert!(happened, "{:?}", action);
            }
            prop_assert_eq!(found, expected);
        }
    }
}
