-- Makes every trigger function write to log $to instead of log $from. Takes no lock on any table.
DO $pgtandem$
DECLARE
    definition text;
BEGIN
    FOR definition IN
        SELECT pg_get_functiondef(p.oid)
        FROM pg_proc p
        WHERE p.pronamespace = 'pgtandem'::regnamespace AND p.prorettype = 'trigger'::regtype
    LOOP
        EXECUTE replace(definition, 'INSERT INTO pgtandem.log_$from (',
                        'INSERT INTO pgtandem.log_$to (');
    END LOOP;
END
$pgtandem$;
