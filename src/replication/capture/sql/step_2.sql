-- Format 2: definitions follow. Whoever goes through pgtandem has each of them written into the change
-- log, in the transaction that makes it, by a call of pgtandem.define() behind it.
ALTER TABLE pgtandem.meta ADD COLUMN secret bytea;
-- 244 random bits. Application roles cannot read them.
UPDATE pgtandem.meta SET secret = pg_catalog.sha256(pg_catalog.convert_to(
    pg_catalog.gen_random_uuid()::text || pg_catalog.gen_random_uuid()::text, 'UTF8'));
ALTER TABLE pgtandem.meta ALTER COLUMN secret SET NOT NULL;

-- "columns" is the largest number of a column that is known. "shaped" is the transaction of the last
-- definition. "is_plain": its trigger functions were written by a definition, and can be made faster.
ALTER TABLE pgtandem.tables
    ADD COLUMN columns int,
    ADD COLUMN shaped xid8,
    ADD COLUMN is_plain boolean NOT NULL DEFAULT false;
UPDATE pgtandem.tables t SET columns = c.relnatts FROM pg_catalog.pg_class c WHERE c.oid = t.relid;

-- Numbers of tables that definitions make: no transaction waits for another one's.
CREATE SEQUENCE pgtandem.number AS int START 1000000000 CACHE 1;

-- Proofs that were used; each is good once, and for a day.
CREATE TABLE pgtandem.proofs (
    pid     int NOT NULL,
    nonce   bigint NOT NULL,
    used_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (pid, nonce)
);

-- What the trigger functions of a table depend on, and whether it can be captured; no row if it is
-- gone or cannot. The fingerprint is that of `Table::fingerprint`.
CREATE FUNCTION pgtandem.shape(
    relid oid, OUT schema text, OUT name text, OUT is_partitioned boolean, OUT key text[],
    OUT key_sql text, OUT row_sql text, OUT fingerprint text, OUT columns int, OUT inserts text,
    OUT leaves oid[], OUT is_owner boolean, OUT is_filled boolean
) RETURNS SETOF record LANGUAGE sql STABLE SET search_path TO pg_catalog, pg_temp
AS $pgtandem$
SELECT n.nspname::text, c.relname::text, c.relkind = 'p', k.names,
       'ARRAY[' || k.printed || ']', a.row_sql,
       left(encode(sha256(a.digested || k.digested), 'hex'), 32), c.relnatts::int,
       CASE WHEN c.relkind = 'p' OR EXISTS (
           SELECT FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid
           WHERE g.tgrelid = c.oid AND f.pronamespace <> 'pgtandem'::regnamespace
             AND (NOT g.tgisinternal OR g.tgparentid <> 0)
             AND NOT EXISTS (SELECT FROM pg_constraint o
                             WHERE o.oid = g.tgconstraint AND o.contype <> 't')
             AND g.tgtype & 28 <> 0 AND g.tgtype & 3 <> 2)
       THEN 'row' ELSE 'statement' END,
       p.leaves, pg_has_role(c.relowner, 'USAGE'), p.is_filled
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT string_agg('NEW.' || q.name, ', ' ORDER BY a.attnum) AS row_sql,
           string_agg(convert_to(a.attname, 'UTF8') || '\x00'
                      || convert_to(format_type(a.atttypid, a.atttypmod), 'UTF8') || '\x00'
                      || convert_to(CASE WHEN a.attgenerated <> '' THEN 'g' ELSE '-' END, 'UTF8')
                      || '\x00', ''::bytea ORDER BY a.attnum) AS digested
    FROM pg_attribute a
    CROSS JOIN LATERAL (SELECT '"' || replace(a.attname, '"', '""') || '"' AS name) q
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
) a
JOIN LATERAL (
    SELECT o.*
    FROM pg_index i
    JOIN pg_class x ON x.oid = i.indexrelid
    JOIN pg_am m ON m.oid = x.relam AND m.amname = 'btree'
    CROSS JOIN LATERAL (
        SELECT array_agg(b.attname::text ORDER BY p.position) AS names,
               string_agg(CASE WHEN b.atttypid IN (20, 21, 23, 25, 26, 700, 701, 1043, 1082, 1114,
                                                   1184, 1700, 2950)
                          THEN 'ROW.' || q.name || '::pg_catalog.text'
                          ELSE 'pg_catalog.concat(ROW.' || q.name || ')' END,
                          ', ' ORDER BY p.position) AS printed,
               string_agg(convert_to(b.attname, 'UTF8') || '\x00', ''::bytea ORDER BY p.position)
                   AS digested,
               bool_and(b.attnotnull) AS not_null
        FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS p(attnum, position)
        JOIN pg_attribute b ON b.attrelid = c.oid AND b.attnum = p.attnum
        CROSS JOIN LATERAL (SELECT '"' || replace(b.attname, '"', '""') || '"' AS name) q
        WHERE p.position <= i.indnkeyatts
    ) o
    WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
      AND i.indpred IS NULL AND i.indexprs IS NULL
      AND o.not_null AND cardinality(o.names) = i.indnkeyatts
    ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, x.relname::text
    LIMIT 1
) k ON true
CROSS JOIN LATERAL (
    SELECT COALESCE(array_agg(l.oid ORDER BY l.oid) FILTER (WHERE c.relkind = 'p'), '{}') AS leaves,
           COALESCE(bool_and(has_table_privilege(l.oid, 'SELECT')
                             AND NOT row_security_active(l.oid)
                             AND l.relkind = 'r' AND l.relpersistence = 'p' AND m.amname = 'heap'),
                    true) AS is_possible,
           COALESCE(sum(pg_relation_size(l.oid)), 0) > 0 AS is_filled
    FROM (SELECT c.oid AS relid WHERE c.relkind = 'r'
          UNION ALL
          SELECT relid FROM pg_partition_tree(c.oid) WHERE isleaf AND c.relkind = 'p') p
    JOIN pg_class l ON l.oid = p.relid
    LEFT JOIN pg_am m ON m.oid = l.relam
) p
WHERE c.oid = $1 AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND NOT c.relispartition
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgtandem')
  AND n.nspname !~ '^pg_(toast_)?temp_'
  AND p.is_possible AND has_table_privilege(c.oid, 'TRIGGER')
  AND has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid)
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                  AND d.objid = c.oid AND d.deptype = 'e')
$pgtandem$;

-- Makes a trigger function; as `Function::create` does, with all settings pinned.
CREATE FUNCTION pgtandem.make_function(name text, body text) RETURNS void
LANGUAGE plpgsql SET search_path TO pg_catalog, pg_temp
AS $pgtandem$
BEGIN
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION pgtandem.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER '
        'SET "DateStyle" TO ''ISO, MDY'' SET "IntervalStyle" TO ''postgres'' SET "TimeZone" TO ''UTC'' '
        'SET "extra_float_digits" TO ''3'' SET "bytea_output" TO ''hex'' SET "lc_monetary" TO ''C'' '
        'SET "quote_all_identifiers" TO ''off'' SET "search_path" TO pg_catalog, pg_temp AS %L',
        name, E'\nBEGIN\n    ' || body || E';\n    RETURN NULL;\nEND\n');
    EXECUTE format('REVOKE ALL ON FUNCTION pgtandem.%I() FROM PUBLIC', name);
END
$pgtandem$;

-- Makes the trigger functions of a table, in the words of `triggers.rs`; a test compares them. Existing
-- triggers are left as they are.
CREATE FUNCTION pgtandem.make_functions(
    relid oid, number int, active int, inserts text
) RETURNS void LANGUAGE plpgsql SET search_path TO pg_catalog, pg_temp
AS $pgtandem$
DECLARE
    t record;
    leaf text;
    whole text;
    part text;
    rows text;
BEGIN
    SELECT *, format('"%s"."%s"', replace(schema, '"', '""'), replace(name, '"', '""')) AS quoted
    INTO STRICT t FROM pgtandem.shape(relid);
    part := CASE WHEN t.is_partitioned THEN 'ROW(' || t.row_sql || ')::pg_catalog.text'
                 ELSE 'NEW::pg_catalog.text' END;
    leaf := CASE WHEN t.is_partitioned THEN '%s.tableoid' ELSE 'NULL' END;
    whole := format('INSERT INTO pgtandem.log_%s (', active);
    PERFORM pgtandem.make_function('insert_' || number, CASE inserts
        WHEN 'statement' THEN format(
            E'%srel, op, key, new)\n    SELECT %s, ''I'', %s, (n.*)::pg_catalog.text '
            'FROM pgtandem_new AS n', whole, number, replace(t.key_sql, 'ROW.', 'n.'))
        ELSE format(
            E'%srel, op, key, new, leaf, now)\n    VALUES (%s, ''I'', %s, %s, %s, NEW.ctid)',
            whole, number, replace(t.key_sql, 'ROW.', 'NEW.'), part, format(leaf, 'NEW'))
        END);
    PERFORM pgtandem.make_function('update_' || number, format(
        E'%srel, op, key, new, leaf, was, now)\n    VALUES (%s, ''U'', %s, %s, %s, OLD.ctid, NEW.ctid)',
        whole, number, replace(t.key_sql, 'ROW.', 'OLD.'), part, format(leaf, 'NEW')));
    PERFORM pgtandem.make_function('delete_' || number, format(
        E'%srel, op, key, leaf, was)\n    VALUES (%s, ''D'', %s, %s, OLD.ctid)',
        whole, number, replace(t.key_sql, 'ROW.', 'OLD.'), format(leaf, 'OLD')));
    PERFORM pgtandem.make_function('truncate_' || number,
        format('%srel, op) VALUES (%s, ''T'')', whole, number)
        || CASE WHEN t.is_partitioned THEN '' ELSE format(
            E';\n    %srel, op, key, new, now)\n    SELECT %s, ''I'', %s, pg_catalog.concat(t.*), '
            't.ctid FROM ONLY %s AS t', whole, number, replace(t.key_sql, 'ROW.', 't.'), t.quoted)
           END);
    IF t.is_partitioned THEN
        rows := format('%srel, op, key, leaf, was) SELECT %s, ''D'', %s, t.tableoid, t.ctid FROM ONLY ',
                       whole, number, replace(t.key_sql, 'ROW.', 't.'));
        PERFORM pgtandem.make_function('truncate_leaf_' || number, (
            SELECT E'IF ''T'' IS DISTINCT FROM (SELECT l.op FROM (\n        '
                   || string_agg(format('SELECT l.id, l.op FROM pgtandem.log_%s AS l '
                                        'WHERE l.xid = pg_current_xact_id() AND l.rel = %s',
                                        log, number), E'\n        UNION ALL ' ORDER BY log)
                   || E'\n    ) l ORDER BY l.id DESC LIMIT 1) THEN\n        EXECUTE '
                   || quote_literal(rows)
                   || E' || TG_RELID::regclass::text || '' AS t'';\n    END IF'
            FROM generate_series(0, 2) AS log));
    END IF;
END
$pgtandem$;

-- Lets the owner of a partitioned table have triggers call its row functions, and nobody else: whoever
-- makes a partition needs that for the copies of the row triggers.
CREATE FUNCTION pgtandem.open_functions(relid oid, number int) RETURNS void
LANGUAGE plpgsql SET search_path TO pg_catalog, pg_temp
AS $pgtandem$
DECLARE
    f record;
    grantee oid;
BEGIN
    FOR f IN
        SELECT p.oid::regprocedure AS name, c.relowner, p.proowner,
               ARRAY(SELECT a.grantee FROM aclexplode(p.proacl) a WHERE a.grantee <> p.proowner) AS now
        FROM pg_class c
        JOIN pg_proc p ON p.proname IN ('insert_' || number, 'update_' || number, 'delete_' || number)
                      AND p.pronamespace = 'pgtandem'::regnamespace
        WHERE c.oid = relid AND c.relkind = 'p'
    LOOP
        CONTINUE WHEN f.now = CASE f.relowner WHEN f.proowner THEN '{}' ELSE ARRAY[f.relowner] END;
        FOREACH grantee IN ARRAY f.now LOOP
            EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %s', f.name, CASE grantee WHEN 0 THEN 'PUBLIC'
                           ELSE quote_ident(pg_get_userbyid(grantee)) END);
        END LOOP;
        IF f.relowner <> f.proowner THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', f.name, pg_get_userbyid(f.relowner));
        END IF;
    END LOOP;
END
$pgtandem$;

-- Makes a trigger unless it is there; fires always where we may decide that.
CREATE FUNCTION pgtandem.make_trigger(
    relid oid, name text, event text, function text, is_owner boolean
) RETURNS void LANGUAGE plpgsql SET search_path TO pg_catalog, pg_temp
AS $pgtandem$
DECLARE
    quoted text;
BEGIN
    IF EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = $1 AND g.tgname = $2) THEN
        RETURN;
    END IF;
    SELECT format('%I.%I', n.nspname, c.relname) INTO STRICT quoted
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relid;
    EXECUTE format('CREATE TRIGGER %I %s EXECUTE FUNCTION pgtandem.%I()', name,
                   replace(event, 'ON TABLE', 'ON ' || quoted), function);
    IF is_owner THEN
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', quoted, name);
    END IF;
END
$pgtandem$;

-- Makes the triggers of a table and its partitions. The transaction that makes the table holds its
-- locks.
CREATE FUNCTION pgtandem.make_triggers(
    relid oid, number int, inserts text, leaves oid[], is_owner boolean
) RETURNS void LANGUAGE plpgsql SET search_path TO pg_catalog, pg_temp
AS $pgtandem$
DECLARE
    -- A number behind the name: a table that becomes another one's partition keeps its own meanwhile.
    behind text := CASE WHEN number < 1000000000 THEN '' ELSE '_' || number END;
    is_root boolean := cardinality(leaves) > 0
        OR (SELECT relkind = 'p' FROM pg_class c WHERE c.oid = $1);
    leaf oid;
BEGIN
    PERFORM pgtandem.make_trigger(
        relid, '!pgtandem_insert' || behind,
        CASE inserts WHEN 'row' THEN 'AFTER INSERT ON TABLE FOR EACH ROW'
        ELSE 'AFTER INSERT ON TABLE REFERENCING NEW TABLE AS pgtandem_new FOR EACH STATEMENT' END,
        'insert_' || number, is_owner);
    PERFORM pgtandem.make_trigger(relid, '!pgtandem_update' || behind,
        'AFTER UPDATE ON TABLE FOR EACH ROW', 'update_' || number, is_owner);
    PERFORM pgtandem.make_trigger(relid, '!pgtandem_delete' || behind,
        'AFTER DELETE ON TABLE FOR EACH ROW', 'delete_' || number, is_owner);
    PERFORM pgtandem.make_trigger(relid, '!pgtandem_truncate' || behind,
        CASE WHEN is_root THEN 'BEFORE' ELSE 'AFTER' END || ' TRUNCATE ON TABLE FOR EACH STATEMENT',
        'truncate_' || number, is_owner);
    FOREACH leaf IN ARRAY leaves LOOP
        PERFORM pgtandem.make_trigger(leaf, '!pgtandem_truncate' || behind,
            'BEFORE TRUNCATE ON TABLE FOR EACH STATEMENT', 'truncate_leaf_' || number, is_owner);
    END LOOP;
END
$pgtandem$;

-- Takes a table out of capture.
CREATE FUNCTION pgtandem.release(number int) RETURNS void
LANGUAGE plpgsql SET search_path TO pg_catalog, pg_temp
AS $pgtandem$
DECLARE
    what text;
BEGIN
    FOREACH what IN ARRAY ARRAY['insert', 'update', 'delete', 'truncate', 'truncate_leaf'] LOOP
        EXECUTE format('DROP FUNCTION IF EXISTS pgtandem.%I() CASCADE', what || '_' || number);
    END LOOP;
    DELETE FROM pgtandem.tables t WHERE t.number = $1;
END
$pgtandem$;

-- A snapshot that sees what is committed now, and this transaction.
CREATE FUNCTION pgtandem.with_us() RETURNS pg_snapshot
LANGUAGE sql SET search_path TO pg_catalog, pg_temp
AS $pgtandem$
SELECT format('%s:%s:%s', COALESCE(min(x::text::numeric), m.top), m.top,
              COALESCE(string_agg(x::text, ',' ORDER BY x::text::numeric), ''))::pg_snapshot
FROM (SELECT pg_current_xact_id() AS us, pg_current_snapshot() AS snapshot) s
CROSS JOIN LATERAL (SELECT GREATEST(pg_snapshot_xmax(s.snapshot)::text::numeric,
                                    s.us::text::numeric + 1) AS top) m
LEFT JOIN LATERAL (
    SELECT x FROM pg_snapshot_xip(s.snapshot) AS x WHERE x <> s.us
  UNION
    -- What began between that snapshot and our own number.
    SELECT n::text::xid8
    FROM generate_series(pg_snapshot_xmax(s.snapshot)::text::numeric, s.us::text::numeric - 1) AS n
) o ON true
GROUP BY m.top
$pgtandem$;

-- Whether a name is meant by patterns, one on a line, in which * stands for any text.
CREATE FUNCTION pgtandem.is_meant(name text, patterns text) RETURNS boolean
LANGUAGE sql STABLE SET search_path TO pg_catalog, pg_temp
AS $pgtandem$
SELECT COALESCE(bool_or(name LIKE replace(replace(replace(replace(
    p, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%')), false)
FROM unnest(string_to_array(patterns, E'\n')) AS p
$pgtandem$;

-- Writes a definition into the change log, behind it and in its transaction, and puts the tables that
-- it has made or changed under capture as they are now.
--
-- "how" has words of the proxy about the text. "path", "role" and "conforming" are what the caller has
-- set, and this has not. Whoever calls it proves that it knows the secret, for this process and text.
CREATE FUNCTION pgtandem.define(
    proof bytea, nonce bigint, how text, statement bytea, include text, exclude text, target oid,
    path text, role text, conforming text
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO pg_catalog, pg_temp SET standard_conforming_strings TO on
AS $pgtandem$
DECLARE
    meta record;
    t record;
    what text;
    facts text[];
    log text;
    id int;
    us xid8;
    made text;
BEGIN
    SELECT m.secret INTO STRICT meta FROM pgtandem.meta m;
    -- Null, of whatever is null, is no proof.
    IF NOT COALESCE(proof = sha256(meta.secret || sha256(
               meta.secret || convert_to(pg_backend_pid() || ' ' || nonce || ' ' || how, 'UTF8')
               || sha256(statement) || sha256(convert_to(include, 'UTF8'))
               || sha256(convert_to(exclude, 'UTF8'))))
           -- Microseconds, and twelve bits of chance.
           AND abs(extract(epoch FROM clock_timestamp()) - (nonce >> 12) / 1000000.0) < 86400, false)
    THEN
        RAISE EXCEPTION 'permission denied for function define' USING ERRCODE = '42501';
    END IF;
    INSERT INTO pgtandem.proofs (pid, nonce) VALUES (pg_backend_pid(), nonce) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'permission denied for function define' USING ERRCODE = '42501';
    END IF;

    -- Whoever changes the schema waits for us, and we for nobody who waits.
    PERFORM pg_advisory_xact_lock_shared(8099570416661849453);
    IF current_setting('transaction_isolation') = 'read committed' THEN
        SELECT m.active, m.stopped_at INTO STRICT meta FROM pgtandem.meta m;
    ELSE
        -- Fails (40001) if our snapshot does not have the newest.
        SELECT m.active, m.stopped_at INTO STRICT meta FROM pgtandem.meta m FOR SHARE;
    END IF;
    IF meta.stopped_at IS NOT NULL
       OR EXISTS (SELECT FROM pg_class c WHERE c.oid = target AND c.relpersistence = 't')
       OR how LIKE '%drop%' AND current_setting('pgtandem.dropped', true) = 't' THEN
        RETURN;
    END IF;
    log := format('INSERT INTO pgtandem.log_%s (rel, op, key, new) VALUES ($1, $2, $3, $4)', meta.active);
    us := pg_current_xact_id();

    FOR t IN
        WITH held AS (
            SELECT COALESCE(i.indrelid, l.relation) AS oid, max(l.strength) AS strength
            FROM (SELECT relation, CASE mode WHEN 'AccessExclusiveLock' THEN 3
                                   WHEN 'ShareUpdateExclusiveLock' THEN 1 ELSE 2 END AS strength
                  FROM pg_locks
                  WHERE pid = pg_backend_pid() AND locktype = 'relation' AND granted
                    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                    AND mode IN ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock',
                                 'ExclusiveLock', 'AccessExclusiveLock')
                  UNION ALL
                  -- What rows are checked against is not locked.
                  SELECT k.confrelid, 0 FROM pg_constraint k
                  WHERE how LIKE '%validate%' AND k.conrelid = target AND k.contype = 'f') l
            LEFT JOIN pg_index i ON i.indexrelid = l.relation
            GROUP BY 1
        ), roots AS (
            SELECT COALESCE(pg_partition_root(h.oid)::oid, h.oid) AS oid,
                   max(h.strength) AS strength
            FROM held h WHERE h.oid >= 16384 GROUP BY 1
        )
        SELECT COALESCE(r.relid, h.oid) AS relid, r.number, h.strength, s.*,
               r.fingerprint AS was_fingerprint, r.schema AS was_schema, r.name AS was_name,
               r.leaves AS was_leaves, r.columns AS had_columns, r.inserts AS was_inserts
        FROM roots h
        FULL JOIN pgtandem.tables r ON r.relid = h.oid
        LEFT JOIN pg_class c ON c.oid = r.relid
        LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN LATERAL pgtandem.shape(COALESCE(r.relid, h.oid)) s ON true
        WHERE h.oid IS NOT NULL OR c.oid IS NULL OR c.relispartition OR c.relname <> r.name
           OR n.nspname <> r.schema
        ORDER BY r.number NULLS LAST, h.oid
    LOOP
        facts := '{}';
        IF t.number IS NULL THEN
            -- A new table, or one that can be captured from now on.
            CONTINUE WHEN t.schema IS NULL OR t.strength < 3
                OR NOT pgtandem.is_meant(t.schema || '.' || t.name, include)
                OR pgtandem.is_meant(t.schema || '.' || t.name, exclude);
            id := nextval('pgtandem.number');
            PERFORM pgtandem.make_functions(t.relid, id, meta.active, t.inserts);
            PERFORM pgtandem.make_triggers(t.relid, id, t.inserts, t.leaves, t.is_owner);
            -- All there ever was in an empty table is in the log.
            INSERT INTO pgtandem.tables
                (number, relid, schema, name, key, fingerprint, inserts, leaves, since, first,
                 columns, shaped, is_plain)
            SELECT id, t.relid, t.schema, t.name, t.key, t.fingerprint, t.inserts, t.leaves, f, f,
                   t.columns, us, true
            FROM (SELECT CASE WHEN t.is_filled THEN pgtandem.with_us() ELSE '1:1:' END AS f) f;
            what := CASE WHEN t.is_filled THEN 'copied' ELSE 'made' END;
        ELSIF t.schema IS NULL THEN
            -- It is gone, or is part of another one, or cannot be captured any more.
            id := t.number;
            what := 'released';
            PERFORM pgtandem.release(id);
            t.schema := t.was_schema;
            t.name := t.was_name;
        ELSE
            id := t.number;
            what := CASE WHEN t.strength IS NULL OR t.strength < 2 THEN 'noted' ELSE 'changed' END;
            -- What somebody else has changed past us is not ours to take for known.
            IF t.fingerprint <> t.was_fingerprint AND t.strength = 3 THEN
                SELECT array_agg(f.fact ORDER BY a.attnum, f.place),
                       bool_or(d.is_computed AND NOT m.atthasmissing AND t.is_filled)
                INTO facts, t.is_filled
                FROM pg_attribute a
                JOIN pg_type y ON y.oid = a.atttypid
                -- The partitions have it.
                JOIN pg_attribute m ON m.attrelid = COALESCE(t.leaves[1], t.relid)
                                    AND m.attname = a.attname
                CROSS JOIN LATERAL (
                    SELECT a.attgenerated = '' AND (a.atthasdef OR a.attidentity <> ''
                           OR y.typdefault IS NOT NULL) AS is_computed) d
                LEFT JOIN LATERAL (VALUES (1, a.attname::text), (2, m.attmissingval::text))
                                  f(place, fact) ON m.atthasmissing
                WHERE a.attrelid = t.relid AND a.attnum > COALESCE(t.had_columns, t.columns)
                  AND NOT a.attisdropped;
                facts := array_remove(facts, NULL);
                IF t.is_filled OR how LIKE '%using%' THEN
                    what := 'copied';
                END IF;
            ELSIF how LIKE '%using%' AND t.strength = 3 AND t.relid = target THEN
                what := 'copied';
            END IF;
            -- Rows that a partition brings along are known if it was under capture by itself.
            IF EXISTS (SELECT FROM unnest(t.leaves) AS leaf
                       WHERE leaf <> ALL (t.was_leaves) AND pg_relation_size(leaf) > 0
                         AND leaf NOT IN (SELECT r.relid FROM pgtandem.tables r)) THEN
                what := 'copied';
            END IF;
            IF t.strength = 3 AND (t.fingerprint <> t.was_fingerprint OR t.leaves <> t.was_leaves)
               OR t.leaves <> t.was_leaves OR (t.schema, t.name) <> (t.was_schema, t.was_name) THEN
                PERFORM pgtandem.make_functions(t.relid, id, meta.active, t.was_inserts);
                PERFORM pgtandem.make_triggers(t.relid, id, t.was_inserts, t.leaves, t.is_owner);
                UPDATE pgtandem.tables r
                SET schema = t.schema, name = t.name, key = t.key, leaves = t.leaves, is_plain = true,
                    columns = t.columns, shaped = us,
                    fingerprint = CASE t.strength WHEN 3 THEN t.fingerprint ELSE r.fingerprint END
                WHERE r.number = id;
            ELSIF what <> 'noted' THEN
                UPDATE pgtandem.tables r SET columns = t.columns, shaped = us WHERE r.number = id;
            END IF;
            IF what = 'copied' THEN
                UPDATE pgtandem.tables r SET since = pgtandem.with_us() WHERE r.number = id;
            END IF;
        END IF;
        IF t.is_partitioned AND t.strength = 3 THEN
            PERFORM pgtandem.open_functions(t.relid, id);
        END IF;
        EXECUTE log USING id, 'S'::"char",
            ARRAY[what, t.schema, t.name, t.fingerprint] || COALESCE(facts, '{}'), NULL::text;
    END LOOP;

    IF how LIKE '%query%' THEN
        -- What a query has filled is made empty: its rows come by a copy, once it has a key.
        SELECT format('CREATE %sTABLE %s%I.%I (%s)',
                      CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END,
                      CASE WHEN how LIKE '%lenient%' THEN 'IF NOT EXISTS ' ELSE '' END,
                      n.nspname, c.relname, a.columns)
        INTO made
        FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN LATERAL (
            SELECT string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod))
                              || CASE WHEN o.oid IS NULL THEN ''
                                 ELSE format(' COLLATE %I.%I', m.nspname, o.collname) END,
                              ', ' ORDER BY a.attnum) AS columns
            FROM pg_attribute a
            JOIN pg_type y ON y.oid = a.atttypid
            LEFT JOIN pg_collation o ON o.oid = a.attcollation AND o.oid <> y.typcollation
            LEFT JOIN pg_namespace m ON m.oid = o.collnamespace
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) a
        WHERE c.oid = target AND c.relkind = 'r';
    END IF;
    EXECUTE log USING 0, 'X'::"char",
        ARRAY[how, role] || (
            SELECT array_agg(v ORDER BY n, place)
            FROM unnest(ARRAY['DateStyle', 'IntervalStyle', 'TimeZone', 'array_nulls',
                              'backslash_quote', 'check_function_bodies', 'default_table_access_method',
                              'extra_float_digits', 'lc_monetary', 'transform_null_equals',
                              'xmloption']) AS n
            CROSS JOIN LATERAL (VALUES (1, n), (2, current_setting(n, true))) v(place, v)
            WHERE current_setting(n, true) IS NOT NULL
        ) || ARRAY['standard_conforming_strings', conforming, 'search_path', path],
        COALESCE(made, convert_from(statement, pg_client_encoding()));
END
$pgtandem$;

-- Everybody may call it, and nobody without the secret has anything done.
GRANT USAGE ON SCHEMA pgtandem TO PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pgtandem FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    pgtandem.define(bytea, bigint, text, bytea, text, text, oid, text, text, text) TO PUBLIC;
