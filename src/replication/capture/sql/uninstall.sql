-- Removes capture; the triggers went with their functions.
DROP TABLE IF EXISTS pgtandem.meta, pgtandem.tables, pgtandem.secondaries,
    pgtandem.log_0, pgtandem.log_1, pgtandem.log_2, pgtandem.proofs;
DROP SEQUENCE IF EXISTS pgtandem.log_id, pgtandem.number;
DROP FUNCTION IF EXISTS pgtandem.define, pgtandem.make_functions, pgtandem.make_function,
    pgtandem.make_triggers, pgtandem.make_trigger, pgtandem.release, pgtandem.with_us,
    pgtandem.is_meant, pgtandem.shape, pgtandem.open_functions;
-- A database that is a secondary too keeps its progress in the same schema.
DO $pgtandem$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_depend d JOIN pg_namespace n ON n.oid = d.refobjid
                   WHERE d.refclassid = 'pg_namespace'::regclass AND n.nspname = 'pgtandem') THEN
        DROP SCHEMA pgtandem;
    END IF;
END
$pgtandem$;
