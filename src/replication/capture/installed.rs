//! What is installed, as the catalog has it: our functions, and the triggers that call them.

use std::collections::HashMap;

use tokio_postgres::{GenericClient, Row};

use super::triggers::{Function, Trigger};
use crate::replication::error::Error;

/// A trigger function as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFunction {
    body: String,
    settings: Vec<String>,
    is_definer: bool,
    /// Whether it belongs to the owner of the schema.
    is_ours: bool,
    /// Roles that may use it besides its owner.
    pub grantees: Vec<String>,
}

impl FoundFunction {
    /// Whether it does what `wanted` says, and with the same rights.
    pub fn is(&self, wanted: &Function) -> bool {
        let mut settings = wanted.settings.clone();
        settings.sort_unstable();
        self.is_definer && self.is_ours && self.body == wanted.body && self.settings == settings
    }

    /// Whether those may use it who should, and nobody else.
    pub fn is_open_as(&self, wanted: &Function) -> bool {
        self.grantees.iter().eq(&wanted.caller)
    }
}

/// A trigger as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundTrigger {
    function: String,
    kind: i16,
    /// Whether it fires for some rows or columns only.
    is_restricted: bool,
    /// `O` by default, `A` always, `R` on replicas, `D` never.
    pub enabled: char,
}

impl FoundTrigger {
    /// Whether it calls what `wanted` says, when it says.
    pub fn is(&self, wanted: &Trigger) -> bool {
        !self.is_restricted && self.function == wanted.function && self.kind == wanted.kind
    }
}

/// Our functions by name, and the triggers that call them by table and name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Functions by name.
    pub functions: HashMap<String, FoundFunction>,
    /// Triggers by the table's oid and their name.
    pub triggers: HashMap<(u32, String), FoundTrigger>,
}

impl Installed {
    /// Reads all that is installed.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub async fn read(client: &impl GenericClient) -> Result<Self, Error> {
        Self::query(client, "true", &[]).await
    }

    /// Reads what is installed of the functions of these names.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub async fn read_some(client: &impl GenericClient, names: &[String]) -> Result<Self, Error> {
        Self::query(client, "p.proname::text = ANY ($1)", &[&names]).await
    }

    async fn query(
        client: &impl GenericClient,
        which: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Self, Error> {
        let wrong = || Error::sql("read the triggers of capture");
        let ours = format!(
            "FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'pgtandem' \
             AND p.prorettype = 'trigger'::regtype AND {which}"
        );
        let functions = format!(
            "SELECT p.proname::text, p.prosrc, \
                    ARRAY(SELECT s FROM unnest(p.proconfig) AS s ORDER BY s COLLATE \"C\"), \
                    p.prosecdef, p.proowner = n.nspowner, \
                    ARRAY(SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' \
                                 ELSE pg_get_userbyid(a.grantee)::text END \
                          FROM aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) a \
                          WHERE a.grantee <> p.proowner) {ours}"
        );
        let triggers = format!(
            "SELECT g.tgrelid, g.tgname::text, p.proname::text, g.tgtype, \
                    g.tgqual IS NOT NULL OR g.tgattr <> '', g.tgenabled::text {ours} \
             JOIN pg_trigger g ON g.tgfoid = p.oid"
        );
        let mut installed = Self::default();
        for row in client.query(&functions, parameters).await.map_err(wrong())? {
            let (name, function) = found_function(&row).map_err(wrong())?;
            installed.functions.insert(name, function);
        }
        for row in client.query(&triggers, parameters).await.map_err(wrong())? {
            let (place, trigger) = found_trigger(&row).map_err(wrong())?;
            installed.triggers.insert(place, trigger);
        }
        Ok(installed)
    }

    /// The trigger at the place of `wanted`, whatever it does.
    pub fn trigger(&self, wanted: &Trigger) -> Option<&FoundTrigger> {
        self.triggers.get(&(wanted.relid, wanted.name.clone()))
    }

    /// Whether a function does what `wanted` says.
    pub fn has(&self, wanted: &Function) -> bool {
        self.functions.get(&wanted.name).is_some_and(|found| found.is(wanted))
    }
}

fn found_function(row: &Row) -> Result<(String, FoundFunction), tokio_postgres::Error> {
    let found = FoundFunction {
        body: row.try_get(1)?,
        settings: row.try_get(2)?,
        is_definer: row.try_get(3)?,
        is_ours: row.try_get(4)?,
        grantees: row.try_get(5)?,
    };
    Ok((row.try_get(0)?, found))
}

fn found_trigger(row: &Row) -> Result<((u32, String), FoundTrigger), tokio_postgres::Error> {
    let enabled: String = row.try_get(5)?;
    let found = FoundTrigger {
        function: row.try_get(2)?,
        kind: row.try_get(3)?,
        is_restricted: row.try_get(4)?,
        enabled: enabled.chars().next().unwrap_or('D'),
    };
    Ok(((row.try_get(0)?, row.try_get(1)?), found))
}
