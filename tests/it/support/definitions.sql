-- What is defined in a database, a line for each thing: for servers that no pg_dump here can read.
WITH spaces AS (
    SELECT oid, nspname, nspowner, nspacl FROM pg_namespace
    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
), relations AS (
    SELECT c.*, n.nspname || '.' || c.relname AS name FROM pg_class c JOIN spaces n ON n.oid = c.relnamespace
), things AS (
SELECT concat_ws(' ', 'schema', nspname, nspowner::regrole) AS line FROM spaces
UNION ALL SELECT concat_ws(' ', 'acl of schema', nspname, nspacl) FROM spaces
UNION ALL SELECT concat_ws(' ', 'acl of relation', name, relacl) FROM relations
UNION ALL
SELECT concat_ws(' ', 'relation', name, relkind, relpersistence, relowner::regrole, reloptions, a.amname,
                 relrowsecurity, relforcerowsecurity, relreplident,
                 pg_get_expr(relpartbound, r.oid),
                 CASE relkind WHEN 'p' THEN pg_get_partkeydef(r.oid) END,
                 CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(r.oid) END,
                 CASE relkind WHEN 'i' THEN pg_get_indexdef(r.oid) WHEN 'I' THEN pg_get_indexdef(r.oid) END,
                 (SELECT concat_ws(' ', indisclustered, indisreplident, indisvalid) FROM pg_index WHERE indexrelid = r.oid),
                 (SELECT concat_ws(' ', seqtypid::regtype, seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle)
                  FROM pg_sequence WHERE seqrelid = r.oid),
                 (SELECT string_agg(inhparent::regclass::text, ',' ORDER BY inhseqno) FROM pg_inherits WHERE inhrelid = r.oid),
                 (SELECT string_agg(pg_describe_object(refclassid, refobjid, refobjsubid), ',')
                  FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = r.oid AND relkind = 'S' AND deptype IN ('a', 'i')))
FROM relations r LEFT JOIN pg_am a ON a.oid = r.relam
UNION ALL
SELECT concat_ws(' ', 'column', r.name,
                 row_number() OVER (PARTITION BY r.oid ORDER BY attnum), attname,
                 format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated, attstorage,
                 attcompression, attstattarget, attislocal, attcollation::regcollation,
                 pg_get_expr(d.adbin, d.adrelid))
FROM relations r
JOIN pg_attribute a ON a.attrelid = r.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum
UNION ALL
SELECT concat_ws(' ', 'constraint', n.nspname, conrelid::regclass, contypid::regtype, conname,
                 pg_get_constraintdef(c.oid), convalidated)
FROM pg_constraint c JOIN spaces n ON n.oid = c.connamespace
UNION ALL
SELECT concat_ws(' ', 'trigger', r.name, pg_get_triggerdef(t.oid), tgenabled)
FROM pg_trigger t JOIN relations r ON r.oid = t.tgrelid WHERE NOT tgisinternal
UNION ALL
SELECT concat_ws(' ', 'rule', r.name, pg_get_ruledef(u.oid), ev_enabled)
FROM pg_rewrite u JOIN relations r ON r.oid = u.ev_class WHERE rulename <> '_RETURN'
UNION ALL
SELECT concat_ws(' ', 'policy', r.name, polname, polcmd, polpermissive, polroles::regrole[],
                 pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
FROM pg_policy p JOIN relations r ON r.oid = p.polrelid
UNION ALL
SELECT concat_ws(' ', 'routine', p.oid::regprocedure, proowner::regrole,
                 CASE prokind WHEN 'a' THEN NULL ELSE pg_get_functiondef(p.oid) END)
FROM pg_proc p JOIN spaces n ON n.oid = p.pronamespace
UNION ALL SELECT concat_ws(' ', 'acl of routine', p.oid::regprocedure, proacl)
FROM pg_proc p JOIN spaces n ON n.oid = p.pronamespace
UNION ALL
SELECT concat_ws(' ', 'type', t.oid::regtype, typtype, typowner::regrole, typnotnull, typdefault,
                 format_type(nullif(typbasetype, 0), typtypmod),
                 (SELECT string_agg(enumlabel, ',' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid))
FROM pg_type t JOIN spaces n ON n.oid = t.typnamespace
UNION ALL
SELECT concat_ws(' ', 'statistics', pg_get_statisticsobjdef(s.oid))
FROM pg_statistic_ext s JOIN spaces n ON n.oid = s.stxnamespace
UNION ALL SELECT concat_ws(' ', 'extension', extname, extversion) FROM pg_extension
UNION ALL
SELECT concat_ws(' ', 'comment', pg_describe_object(classoid, objoid, objsubid), description)
FROM pg_description WHERE objoid >= 16384
)
SELECT replace(line, E'\n', '\n') FROM things ORDER BY line;
