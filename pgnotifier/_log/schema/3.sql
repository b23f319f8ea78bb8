-- ===== What a reader does first, in one step =====

-- ===== Tasks: who may enqueue them, and how SQL does =====

-- ===== What has been done: effects that happen once =====

-- ===== The rights of what is new =====

-- Functions may be executed by everybody at first.
DO $$
DECLARE
    made regprocedure;
BEGIN
    FOR made IN
        SELECT p.oid FROM pg_proc AS p
        WHERE p.pronamespace = 'pgnotifier'::regnamespace AND p.proacl IS NULL
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', made);
    END LOOP;
END $$;

-- ===== The version =====

UPDATE pgnotifier.installed SET version = 3, at = clock_timestamp();
