//! Compares what is installed with what should be: nobody may have dropped, disabled or changed a
//! trigger, and no table may have changed behind our back.

use std::collections::{HashMap, HashSet};
use std::fmt;

use tokio_postgres::{Client, GenericClient, IsolationLevel, Row};

use super::error::CaptureError;
use super::installed::Installed;
use super::schema::{self, Meta};
use super::shape::{Inserts, Refusal, Shape};
use super::table::fires;
use super::triggers::{Installation, Trigger};
use crate::replication::catalog::{self, Selection, Table, TableName};
use crate::replication::error::Error;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The table, if it is about one.
    pub table: Option<TableName>,
    /// What it is.
    pub what: Trouble,
}

/// What is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing is captured, since a limit was reached or somebody asked for it.
    Stopped {
        /// Why.
        why: String,
    },
    /// A table that should follow is not under capture.
    NotCaptured,
    /// A table that should follow cannot.
    Refused {
        /// Why not.
        why: Refusal,
    },
    /// A captured table is gone, or is no longer one that can be captured.
    Gone,
    /// A captured table has another name.
    Renamed {
        /// The name it has now.
        to: TableName,
    },
    /// Columns, types or key of a captured table have changed.
    DefinitionChanged,
    /// A partition came; rows that it brought along are not in the log, and TRUNCATE of it alone
    /// may have been missed.
    PartitionAdded {
        /// The partition.
        name: String,
    },
    /// A partition went, with its rows; they are not in the log as deleted.
    PartitionGone {
        /// Its oid.
        oid: u32,
    },
    /// A trigger of capture is missing.
    TriggerMissing {
        /// Its name.
        trigger: String,
        /// The table or partition.
        on: String,
    },
    /// A trigger of capture calls something else, or at other times.
    TriggerAltered {
        /// Its name.
        trigger: String,
        /// The table or partition.
        on: String,
    },
    /// A trigger of capture does not fire for everybody.
    TriggerNotAlways {
        /// Its name.
        trigger: String,
        /// The table or partition.
        on: String,
        /// `pg_trigger.tgenabled`: `D` never, `R` on replicas only, `O` not on replicas.
        enabled: char,
    },
    /// A function of capture is missing or was changed.
    FunctionAltered {
        /// Its name.
        function: String,
    },
    /// Somebody else's trigger came or went, so that inserts should be captured otherwise.
    InsertsOutdated {
        /// How they should be.
        should_be: Inserts,
    },
    /// Another role has rights on an object of ours.
    Exposed {
        /// The object.
        object: String,
        /// The role.
        to: String,
    },
}

impl Trouble {
    /// Whether changes may be missing in the log, so that going on would not be exact.
    pub fn may_have_missed(&self) -> bool {
        match self {
            Self::Stopped { .. }
            | Self::Refused { .. }
            | Self::Gone
            | Self::DefinitionChanged
            | Self::PartitionAdded { .. }
            | Self::PartitionGone { .. }
            | Self::TriggerMissing { .. }
            | Self::TriggerAltered { .. }
            // With `O` only writers are missed that say they are replicas; the owner may allow it.
            | Self::TriggerNotAlways { .. }
            | Self::FunctionAltered { .. } => true,
            // A new table is not followed yet; names are not in the log. Inserts that should be
            // captured otherwise lead to a pause where their order matters, never to a wrong row.
            Self::NotCaptured
            | Self::Renamed { .. }
            | Self::InsertsOutdated { .. }
            | Self::Exposed { .. } => false,
        }
    }
}

impl Trouble {
    /// Whether putting the table under capture once more, and copying it anew, makes it good: the
    /// application has changed the table. What somebody has done to our triggers is left to somebody.
    pub fn is_mended_by_capture(&self) -> bool {
        matches!(
            self,
            Self::DefinitionChanged | Self::PartitionAdded { .. } | Self::PartitionGone { .. }
        )
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(table) = &self.table {
            write!(f, "table {table}: ")?;
        }
        write!(f, "{}", self.what)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped { why } => write!(f, "capture is stopped: {why}"),
            Self::NotCaptured => f.write_str("it is not captured"),
            Self::Refused { why } => write!(f, "{why}"),
            Self::Gone => f.write_str("it was dropped, or cannot be captured any more"),
            Self::Renamed { to } => write!(f, "it was renamed to {to}"),
            Self::DefinitionChanged => f.write_str("its columns, types or key have changed"),
            Self::PartitionAdded { name } => write!(f, "partition {name} was added"),
            Self::PartitionGone { oid } => write!(f, "the partition of oid {oid} is gone"),
            Self::TriggerMissing { trigger, on } => {
                write!(f, "trigger {trigger} on {on} is missing")
            }
            Self::TriggerAltered { trigger, on } => {
                write!(f, "trigger {trigger} on {on} was changed")
            }
            Self::TriggerNotAlways { trigger, on, enabled: 'D' } => {
                write!(f, "trigger {trigger} on {on} is disabled")
            }
            Self::TriggerNotAlways { trigger, on, .. } => {
                write!(f, "trigger {trigger} on {on} is not ENABLE ALWAYS")
            }
            Self::FunctionAltered { function } => {
                write!(f, "function pgtandem.{function} was changed")
            }
            Self::InsertsOutdated { should_be } => {
                write!(
                    f,
                    "its triggers changed, inserts should be captured by {}",
                    should_be.as_str()
                )
            }
            Self::Exposed { object, to } => write!(f, "{to} has rights on {object}"),
        }
    }
}

/// Looks for everything that is not as it should be, within one snapshot.
///
/// Waits for no lock. Cancel safe: yes.
///
/// # Errors
/// [`CaptureError::NotInstalled`], [`CaptureError::Sql`].
pub async fn check(
    client: &mut Client,
    selection: &Selection,
) -> Result<Vec<Finding>, CaptureError> {
    let wrong = || Error::sql("check capture");
    let transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await
        .map_err(wrong())?;
    let meta = schema::read(&transaction).await?;
    let registered = registered(&transaction).await?;
    let all = Selection::new(&["*.*".to_owned()], &[]);
    let tables = catalog::tables(transaction.client(), &all).await?;
    let shapes = Shape::read(&transaction, &tables.iter().collect::<Vec<_>>()).await?;
    let installed = Installed::read(&transaction).await?;
    let mut findings = exposed(&transaction).await?;
    transaction.commit().await.map_err(wrong())?;

    let view = View { meta: &meta, tables: &tables, shapes: &shapes, installed: &installed };
    if let Some(why) = &meta.stopped {
        findings.push(Finding { table: None, what: Trouble::Stopped { why: why.clone() } });
    }
    for entry in &registered {
        let table = Some(&entry.name);
        findings.extend(view.captured(entry).into_iter().map(|what| finding(table, what)));
    }
    let known: HashSet<u32> = registered.iter().map(|entry| entry.relid).collect();
    for table in &tables {
        if selection.has(&table.name) && !known.contains(&table.oid) {
            let what = match shapes.get(&table.oid) {
                Some(Err(why)) => Trouble::Refused { why: why.clone() },
                Some(Ok(_)) | None => Trouble::NotCaptured,
            };
            findings.push(finding(Some(&table.name), what));
        }
    }
    Ok(findings)
}

fn finding(table: Option<&TableName>, what: Trouble) -> Finding {
    Finding { table: table.cloned(), what }
}

/// A row of `pgtandem.tables`.
struct Registered {
    number: i32,
    relid: u32,
    name: TableName,
    fingerprint: String,
    inserts: Inserts,
    leaves: Vec<u32>,
    is_plain: bool,
}

async fn registered(client: &impl GenericClient) -> Result<Vec<Registered>, Error> {
    let sql = "SELECT number, relid, schema, name, fingerprint, inserts, leaves, is_plain
               FROM pgtandem.tables ORDER BY number";
    let rows = client.query(sql, &[]).await.map_err(Error::sql("read pgtandem.tables"))?;
    let rows: Result<Vec<_>, _> = rows.iter().map(Registered::of).collect();
    rows.map_err(Error::sql("read pgtandem.tables"))
}

impl Registered {
    fn of(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            number: row.try_get(0)?,
            relid: row.try_get(1)?,
            name: TableName { schema: row.try_get(2)?, name: row.try_get(3)? },
            fingerprint: row.try_get(4)?,
            inserts: Inserts::written(row.try_get(5)?),
            leaves: row.try_get(6)?,
            is_plain: row.try_get(7)?,
        })
    }
}

/// Roles with rights on our objects that are not ours.
async fn exposed(client: &impl GenericClient) -> Result<Vec<Finding>, Error> {
    let sql = "SELECT o.what, CASE a.grantee WHEN 0 THEN 'PUBLIC'
                              ELSE pg_get_userbyid(a.grantee)::text END
               FROM (SELECT 'schema pgtandem' AS what, nspacl AS acl, nspowner AS owner
                     FROM pg_namespace WHERE nspname = 'pgtandem'
                   UNION ALL
                     SELECT 'pgtandem.' || c.relname, c.relacl, n.nspowner
                     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE n.nspname = 'pgtandem'
                   UNION ALL
                     SELECT 'function ' || p.oid::regprocedure::text,
                            COALESCE(p.proacl, acldefault('f', p.proowner)), n.nspowner
                     FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                     WHERE n.nspname = 'pgtandem') o
               CROSS JOIN LATERAL aclexplode(o.acl) a
               WHERE a.grantee <> o.owner
                 -- Everybody may call one function; see `sql/step_2.sql`.
                 AND NOT (a.grantee = 0 AND (o.what LIKE 'function pgtandem.define(%'
                          OR o.what = 'schema pgtandem' AND a.privilege_type = 'USAGE'))
                 -- Nor is it for the owner of a partitioned table; see `Function::caller`.
                 AND NOT EXISTS (SELECT FROM pgtandem.tables t JOIN pg_class c ON c.oid = t.relid
                                 WHERE c.relkind = 'p' AND c.relowner = a.grantee
                                   AND o.what IN ('function pgtandem.insert_' || t.number || '()',
                                                  'function pgtandem.update_' || t.number || '()',
                                                  'function pgtandem.delete_' || t.number || '()'))
               GROUP BY 1, 2 ORDER BY 1, 2";
    let wrong = || Error::sql("read the rights on the change log");
    let rows = client.query(sql, &[]).await.map_err(wrong())?;
    let read = |row: &Row| {
        Ok(finding(None, Trouble::Exposed { object: row.try_get(0)?, to: row.try_get(1)? }))
    };
    rows.iter().map(read).collect::<Result<_, _>>().map_err(wrong())
}

/// What one snapshot shows.
struct View<'a> {
    meta: &'a Meta,
    tables: &'a [Table],
    shapes: &'a HashMap<u32, Result<Shape, Refusal>>,
    installed: &'a Installed,
}

impl View<'_> {
    fn captured(&self, entry: &Registered) -> Vec<Trouble> {
        let table = self.tables.iter().find(|table| table.oid == entry.relid);
        let shape = self.shapes.get(&entry.relid);
        let (table, shape) = match (table, shape) {
            (Some(table), Some(Ok(shape))) => (table, shape),
            (Some(_), Some(Err(why))) => return vec![Trouble::Refused { why: why.clone() }],
            (None, _) | (_, None) => return vec![Trouble::Gone],
        };
        let mut found = Vec::new();
        if table.name != entry.name {
            found.push(Trouble::Renamed { to: table.name.clone() });
        }
        if table.fingerprint() != entry.fingerprint {
            // Functions and triggers that are for another definition say nothing more.
            found.push(Trouble::DefinitionChanged);
            return found;
        }
        if shape.inserts != entry.inserts {
            found.push(Trouble::InsertsOutdated { should_be: shape.inserts });
        }
        let is_new = |oid: u32| !entry.leaves.contains(&oid);
        for leaf in shape.leaves.iter().filter(|leaf| is_new(leaf.oid)) {
            found.push(Trouble::PartitionAdded { name: leaf.name.clone() });
        }
        let is_gone = |oid: &&u32| !shape.leaves.iter().any(|leaf| leaf.oid == **oid);
        for oid in entry.leaves.iter().filter(is_gone) {
            found.push(Trouble::PartitionGone { oid: *oid });
        }
        let mut shape = Shape { inserts: entry.inserts, ..shape.clone() };
        if entry.is_plain {
            shape = shape.plain();
        }
        let wanted = Installation::new(table, &shape, entry.number, self.meta.active);
        if self.meta.stopped.is_none() {
            let altered = wanted.functions.iter().filter(|wanted| !self.installed.has(wanted));
            let name = |name: &String| Trouble::FunctionAltered { function: name.clone() };
            found.extend(altered.map(|function| name(&function.name)));
        }
        let old = wanted
            .triggers
            .iter()
            .filter(|trigger| trigger.relid == entry.relid || !is_new(trigger.relid));
        found.extend(old.filter_map(|wanted| self.trigger(wanted, shape.is_owner)));
        found
    }

    fn trigger(&self, wanted: &Trigger, is_owner: bool) -> Option<Trouble> {
        let (trigger, on) = (wanted.name.clone(), wanted.relation.clone());
        match self.installed.trigger(wanted) {
            None => Some(Trouble::TriggerMissing { trigger, on }),
            Some(found) if !found.is(wanted) => Some(Trouble::TriggerAltered { trigger, on }),
            Some(found) if !fires(found.enabled, is_owner) => {
                Some(Trouble::TriggerNotAlways { trigger, on, enabled: found.enabled })
            }
            Some(_) => None,
        }
    }
}
