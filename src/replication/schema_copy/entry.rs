//! What `pg_dump` prints as text, cut at the comments with which it begins each object.

use std::fmt;

/// Before each object, between two empty comments: its name, kind, schema and owner.
const HEAD: &str = "\n--\n-- Name: ";
const FOOT: &str = "\n--\n\n";
const END: &str = "\n--\n-- PostgreSQL database dump complete\n";

/// Everything that a dump has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dump {
    /// Statements that everything behind depends on.
    pub(super) settings: Vec<String>,
    /// The objects, in the order in which they can be made.
    pub(super) entries: Vec<Entry>,
}

/// One object with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// What it is, in `pg_dump`'s words: TABLE, INDEX, FK CONSTRAINT, …
    pub(super) kind: String,
    /// Its name; that of a trigger has the table's in front.
    pub(super) name: String,
    /// The statements.
    pub(super) sql: String,
}

impl Dump {
    /// Cuts a dump.
    ///
    /// A function body may have in it what looks like the beginning of an object. It is cut in two
    /// then, and the first half is refused by the server, since its quotes are open.
    pub(super) fn read(text: &str) -> Self {
        let text = text.rsplit_once(END).map_or(text, |(text, _)| text);
        let mut parts = text.split(HEAD);
        let settings = parts.next().unwrap_or_default().lines();
        // psql's own commands (\restrict) are for psql.
        let is_statement =
            |line: &&str| !line.is_empty() && !line.starts_with("--") && !line.starts_with('\\');
        let bare = |line: &str| line.trim_end_matches(';').to_owned();
        let settings = settings.filter(is_statement).map(bare).collect();
        Self { settings, entries: parts.map(Entry::read).collect() }
    }
}

impl Entry {
    fn read(text: &str) -> Self {
        let (head, sql) = text.split_once(FOOT).unwrap_or((text, ""));
        let head = head.rsplit_once("; Schema: ").map_or(head, |(head, _)| head);
        let (name, kind) = head.rsplit_once("; Type: ").unwrap_or((head, "object"));
        Self { kind: kind.to_owned(), name: name.to_owned(), sql: sql.trim().to_owned() }
    }

    /// Whether it belongs to our capture, and not to the application.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self.kind.as_str(), "TRIGGER" | "EVENT TRIGGER")
            && self.sql.contains(" EXECUTE FUNCTION pgtandem.")
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.to_lowercase(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
--
-- PostgreSQL database dump
--

\\restrict abc

-- Dumped from database version 15.18

SET statement_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);

--
-- Name: t; Type: TABLE; Schema: public; Owner: me
--

CREATE TABLE public.t (
    id integer
);


ALTER TABLE public.t OWNER TO me;

--
-- Name: t pgtandem_row; Type: TRIGGER; Schema: public; Owner: me
--

CREATE TRIGGER pgtandem_row AFTER INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION pgtandem.row_1();

ALTER TABLE public.t ENABLE ALWAYS TRIGGER pgtandem_row;


--
-- Name: odd; Type: name; Type: VIEW; Schema: a; Schema: b; Owner: me
--

CREATE VIEW x AS SELECT 1;


--
-- PostgreSQL database dump complete
--

\\unrestrict abc

";

    #[test]
    fn a_dump_is_cut_into_objects() {
        let Dump { settings, entries } = Dump::read(TEXT);
        let expected =
            ["SET statement_timeout = 0", "SELECT pg_catalog.set_config('search_path', '', false)"];
        assert_eq!(settings, expected);
        let shown: Vec<_> = entries.iter().map(ToString::to_string).collect();
        assert_eq!(shown[..2], ["table t", "trigger t pgtandem_row"]);
        assert!(entries[0].sql.ends_with("ALTER TABLE public.t OWNER TO me;"));
        assert_eq!(entries[2].sql, "CREATE VIEW x AS SELECT 1;");
        assert_eq!(entries.iter().map(Entry::is_ours).collect::<Vec<_>>(), [false, true, false]);
    }

    #[test]
    fn no_text_is_too_short() {
        for end in 0..TEXT.len() {
            let _ = Dump::read(TEXT.get(..end).unwrap_or_default());
        }
    }
}
