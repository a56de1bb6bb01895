-- Makes every trigger function do nothing. Takes no lock on any table.
DO $pgtandem$
DECLARE
    name text;
BEGIN
    FOR name IN
        SELECT p.proname
        FROM pg_proc p
        WHERE p.pronamespace = 'pgtandem'::regnamespace AND p.prorettype = 'trigger'::regtype
    LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION pgtandem.%I() RETURNS trigger LANGUAGE plpgsql '
                       'AS ''BEGIN RETURN NULL; END''', name);
    END LOOP;
END
$pgtandem$;
