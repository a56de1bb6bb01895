//! What is written is the same whatever the writer has set.

use super::Primary;

/// Every type whose output depends on a setting, directly and inside others, and an extension's kind
/// of type: one that is not known.
const TYPES: &str = "
    CREATE TYPE inner_row AS (f float8, t timestamptz, m money);
    CREATE DOMAIN day AS date;
    CREATE TABLE v (
        id int PRIMARY KEY, d date, t time, tz timetz, ts timestamp, tstz timestamptz,
        iv interval, f4 float4, f8 float8, p point, c circle, b bytea, m money, x xml, j jsonb,
        js json, n numeric, rc regclass, rt regtype, rp regproc, rr regrole, rn regnamespace,
        ro regoperator, ac aclitem, dd day, ir inner_row, fa float8[], ba bytea[], tr tstzrange,
        dr daterange, q tsquery, tv tsvector, o oid, ch \"char\", bc char(5), h bit(3), bo bool,
        mac macaddr, i inet, ci cidr);
    CREATE TABLE \"Select\" (id timestamptz, m money, f float8, b bytea, iv interval, r regclass,
        PRIMARY KEY (id, m, f, b, iv, r));
    GRANT ALL ON v, \"Select\" TO dave;";

const WRITE: &str = "
    INSERT INTO public.v SELECT ID_, '2020-02-03', '04:05:06.789', '04:05:06+07',
        make_timestamp(2020, 2, 3, 4, 5, 6.5), make_timestamptz(2020, 2, 3, 4, 5, 6.5, 'Asia/Tokyo'),
        make_interval(1, 2, 0, -3, 4, 5, 6.7), 0.1::float4, pi(), point(pi(), 1e300),
        circle(point(0.1, 0.2), 0.3), decode('00ff5c41', 'hex'), 1234.56::numeric::money,
        xmlelement(name a, xmlattributes('c' as b), 'x'), '{\"a\": 1.50}', '{\"a\" : 1.50}', 1.500,
        'public.v'::regclass, 'public.inner_row'::regtype, 'pg_catalog.now'::regproc,
        'dave'::regrole, 'public'::regnamespace, 'pg_catalog.+(int4,int4)'::regoperator,
        'dave=r/dave'::aclitem, '2020-02-03',
        (0.1::float8, make_timestamptz(2020, 7, 3, 4, 5, 6.5, 'UTC'), 5::numeric::money)::public.inner_row,
        ARRAY[pi(), 0.1], ARRAY[decode('00ff', 'hex')],
        tstzrange(make_timestamptz(2020, 7, 3, 4, 5, 6.5, 'UTC'), NULL),
        daterange('2020-02-03', NULL), 'a & b', 'a:1A', 5, 'c', 'bc', B'101', true,
        '08:00:2b:01:02:03', '10.0.0.1/8', '10.0.0.0/8';
    INSERT INTO public.\"Select\" SELECT make_timestamptz(2020, 2, 3, 4, 5, 6.5 + ID_, 'UTC'),
        7.5::numeric::money, pi(), decode('00ff5c', 'hex'), make_interval(0, 0, 0, 1, 2),
        'public.\"Select\"'::regclass;
    UPDATE public.v SET n = n + 1 WHERE id = ID_;
    UPDATE public.\"Select\" SET f = 1.0 / 3
        WHERE id = make_timestamptz(2020, 2, 3, 4, 5, 6.5 + ID_, 'UTC');";

#[test]
fn texts_do_not_depend_on_the_writers_settings() {
    let settings = [
        "DateStyle = 'SQL, DMY'",
        "DateStyle = 'German'",
        "DateStyle = 'Postgres, YMD'",
        "IntervalStyle = 'iso_8601'",
        "IntervalStyle = 'sql_standard'",
        "TimeZone = 'Asia/Kathmandu'",
        "extra_float_digits = -15",
        "bytea_output = 'escape'",
        "lc_monetary = 'en_US.UTF-8'",
        "lc_numeric = 'de_DE.UTF-8'",
        "lc_time = 'de_DE.UTF-8'",
        "quote_all_identifiers = on",
        "search_path = public",
        "search_path = ''",
        "xmlbinary = 'hex'",
        "xmloption = 'document'",
        "array_nulls = off",
        "client_encoding = 'LATIN1'",
        "standard_conforming_strings = off",
        "timezone_abbreviations = 'India'",
        "default_text_search_config = 'pg_catalog.german'",
        "client_min_messages = error",
    ];
    let primary = Primary::captured(TYPES);
    let has_locale = primary.superuser(
        "DO $$ BEGIN SET lc_monetary = 'en_US.UTF-8'; EXCEPTION WHEN OTHERS THEN
             CREATE TABLE replay.no_locales (); END $$;
         SELECT to_regclass('replay.no_locales') IS NULL",
    );
    let mut written = 0;
    for (number, setting) in settings.iter().enumerate() {
        if setting.contains("UTF-8") && has_locale.trim() == "f" {
            continue;
        }
        let write = WRITE.replace("ID_", &number.to_string());
        primary.dave(&format!(
            "SET search_path = public; BEGIN; SET LOCAL {setting}; {write} COMMIT;"
        ));
        written += 1;
    }
    // Every writer has written the same, but for the number.
    let variants = primary.superuser(
        "SELECT op, count(*), count(DISTINCT CASE WHEN rel = (SELECT number FROM pgtandem.tables
             WHERE name = 'v') THEN regexp_replace(new, '^\\([0-9]+', '') END),
             count(DISTINCT key[2:]) FILTER (WHERE cardinality(key) > 1)
         FROM (SELECT * FROM pgtandem.log_0) l GROUP BY op ORDER BY op",
    );
    let each = 2 * written;
    assert_eq!(variants, format!("I|{each}|1|1\nU|{each}|1|1\n"));
    primary.assert_equal();
}

/// A table of plain types pins nothing it does not need: each setting costs time for each row.
#[test]
fn settings_are_pinned_where_they_matter() {
    let primary = Primary::captured(
        "CREATE TABLE a (id int PRIMARY KEY, v text, n numeric, j jsonb);
         CREATE TABLE b (id int PRIMARY KEY, t timestamp, f float8[]);
         CREATE TABLE c (id int PRIMARY KEY, r regclass);",
    );
    let pinned = primary.superuser(
        "SELECT p.proname, p.proconfig FROM pg_proc p
         WHERE p.pronamespace = 'pgtandem'::regnamespace AND p.proname ~ '^update' ORDER BY 1",
    );
    let expected = "update_1|\n\
        update_2|{\"DateStyle=ISO, MDY\",extra_float_digits=3}\n\
        update_3|{\"DateStyle=ISO, MDY\",IntervalStyle=postgres,TimeZone=UTC,extra_float_digits=3,\
        bytea_output=hex,lc_monetary=C,quote_all_identifiers=off,\
        \"search_path=pg_catalog, pg_temp\"}\n";
    assert_eq!(pinned, expected);
}
