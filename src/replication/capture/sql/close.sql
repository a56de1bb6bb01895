-- Takes back what ALTER DEFAULT PRIVILEGES may have given away on objects of ours.
DO $pgtandem$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT 'SCHEMA pgtandem' AS what, a.grantee
        FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a
        WHERE n.nspname = 'pgtandem' AND a.grantee <> n.nspowner
          -- Everybody may look up the one function that everybody may call.
          AND NOT (a.grantee = 0 AND a.privilege_type = 'USAGE')
        UNION
        SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END
               || format('pgtandem.%I', c.relname), a.grantee
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
        WHERE c.relnamespace = 'pgtandem'::regnamespace AND c.relkind IN ('r', 'S')
          AND a.grantee <> c.relowner
        UNION
        SELECT 'FUNCTION ' || p.oid::regprocedure::text, a.grantee
        FROM pg_proc p
        CROSS JOIN LATERAL aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) a
        WHERE p.pronamespace = 'pgtandem'::regnamespace AND a.grantee <> p.proowner
          AND NOT (a.grantee = 0 AND p.proname = 'define')
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', given.what,
                       CASE given.grantee WHEN 0 THEN 'PUBLIC'
                       ELSE quote_ident(pg_get_userbyid(given.grantee)) END);
    END LOOP;
END
$pgtandem$;
