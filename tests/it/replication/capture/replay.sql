-- A replayer that is as simple as can be, for tests: one transaction after the other, in the order of
-- their last ids. Within a transaction, what it made and did not replace is added, and what it
-- replaced and did not make is removed; each must be exactly one row.
CREATE SCHEMA replay;

CREATE FUNCTION replay.begin() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    t record;
BEGIN
    TRUNCATE pgtandem.log_0, pgtandem.log_1, pgtandem.log_2;
    FOR t IN SELECT * FROM pgtandem.tables LOOP
        EXECUTE format('DROP TABLE IF EXISTS replay.t%s', t.number);
        EXECUTE format('CREATE TABLE replay.t%s (LIKE %I.%I)', t.number, t.schema, t.name);
        EXECUTE format('INSERT INTO replay.t%s SELECT * FROM %s', t.number, replay.source(t.relid));
    END LOOP;
END $$;

CREATE FUNCTION replay.source(relid oid) RETURNS text LANGUAGE sql AS $$
    SELECT CASE relkind WHEN 'p' THEN '' ELSE 'ONLY ' END || format('%I.%I', nspname, relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = relid
$$;

CREATE FUNCTION replay.compare() RETURNS SETOF text LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO, MDY' SET IntervalStyle = postgres
    SET TimeZone = 'UTC' SET extra_float_digits = 3 SET bytea_output = hex SET lc_monetary = 'C'
    SET quote_all_identifiers = off SET xmloption = content SET array_nulls = on
AS $$
DECLARE
    x record;
    l record;
    t record;
    n bigint;
    key_of text;
BEGIN
    DROP TABLE IF EXISTS pg_temp.all_log, pg_temp.net;
    CREATE TEMP TABLE all_log AS
        SELECT * FROM pgtandem.log_0 UNION ALL SELECT * FROM pgtandem.log_1
        UNION ALL SELECT * FROM pgtandem.log_2;
    -- What comes before a TRUNCATE in its transaction is void.
    DELETE FROM all_log a USING all_log b
        WHERE b.op = 'T' AND a.xid = b.xid AND a.rel = b.rel AND a.id < b.id;
    CREATE TEMP TABLE net AS
        WITH open AS (
            SELECT xid, rel, id, 'D' AS what, key, NULL::text AS new
            FROM all_log a WHERE op IN ('U', 'D') AND NOT EXISTS (
                SELECT FROM all_log b WHERE b.xid = a.xid AND b.rel = a.rel
                AND b.leaf IS NOT DISTINCT FROM a.leaf AND b.now = a.was)
            UNION ALL
            SELECT xid, rel, id, 'A', key, new FROM all_log WHERE op = 'I' AND now IS NULL
        ), paired AS (
            -- Rows captured by statement have no version: the next change of that key is of theirs.
            SELECT *, what = 'D' AND lag(what) OVER w = 'A' OR what = 'A' AND lead(what) OVER w = 'D'
                AS is_paired
            FROM open WINDOW w AS (PARTITION BY xid, rel, key ORDER BY id)
        )
        SELECT xid, rel, CASE what WHEN 'D' THEN 1 ELSE 2 END AS step, what, key, new
        FROM paired WHERE is_paired IS NOT TRUE
        UNION ALL
        SELECT xid, rel, 0, 'T', NULL, NULL FROM all_log WHERE op = 'T'
        UNION ALL
        SELECT xid, rel, 2, 'I', NULL, new FROM all_log a
        WHERE op IN ('I', 'U') AND now IS NOT NULL AND NOT EXISTS (
            SELECT FROM all_log b WHERE b.xid = a.xid AND b.rel = a.rel
            AND b.leaf IS NOT DISTINCT FROM a.leaf AND b.was = a.now);
    FOR x IN SELECT xid FROM all_log GROUP BY xid ORDER BY max(id) LOOP
        FOR l IN SELECT * FROM net WHERE xid = x.xid ORDER BY step LOOP
            SELECT * INTO STRICT t FROM pgtandem.tables WHERE number = l.rel;
            IF l.what = 'T' THEN
                EXECUTE format('TRUNCATE replay.t%s', l.rel);
            ELSIF l.what = 'D' THEN
                SELECT string_agg(format('concat(c.%I)', k), ', ' ORDER BY o) INTO key_of
                    FROM unnest(t.key) WITH ORDINALITY u(k, o);
                EXECUTE format('DELETE FROM replay.t%s c WHERE ARRAY[%s] = $1', l.rel, key_of)
                    USING l.key;
                GET DIAGNOSTICS n = ROW_COUNT;
                IF n <> 1 THEN
                    RETURN NEXT format('%s: %s rows have the key %s', t.name, n, l.key);
                END IF;
            ELSE
                EXECUTE format('INSERT INTO replay.t%1$s SELECT ($1::replay.t%1$s).*', l.rel)
                    USING l.new;
            END IF;
        END LOOP;
    END LOOP;
    FOR t IN SELECT * FROM pgtandem.tables LOOP
        EXECUTE format('SELECT count(*) FROM (
            (SELECT s_::text FROM %1$s s_ EXCEPT ALL SELECT c_::text FROM replay.t%2$s c_)
            UNION ALL
            (SELECT c_::text FROM replay.t%2$s c_ EXCEPT ALL SELECT s_::text FROM %1$s s_)) d',
            replay.source(t.relid), t.number) INTO n;
        IF n > 0 THEN
            RETURN NEXT format('%s: %s rows differ', t.name, n);
        END IF;
    END LOOP;
    -- From here on.
    TRUNCATE pgtandem.log_0, pgtandem.log_1, pgtandem.log_2;
END $$;
