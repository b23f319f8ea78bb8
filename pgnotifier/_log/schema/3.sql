-- ===== What a reader does first, in one step =====

-- ===== Tasks: who may enqueue them, and how SQL does =====

-- ===== What has been done: effects that happen once =====

-- The ids of what has been done. Each was inserted by the transaction that has had the effects, so
-- that both are there or neither is. As in the log, nothing is ever deleted: TRUNCATE empties a slot
-- when all that it holds is old enough.
CREATE TABLE pgnotifier.done (
    slot smallint NOT NULL,
    id text COLLATE "C" NOT NULL
) PARTITION BY LIST (slot);

DO $$
BEGIN
    FOR number IN 0..3 LOOP
        EXECUTE format(
            'CREATE TABLE pgnotifier.done_%1$s PARTITION OF pgnotifier.done FOR VALUES IN (%1$s)'
            ' WITH (autovacuum_enabled = off);'
            ' ALTER TABLE pgnotifier.done_%1$s ADD UNIQUE (id)',
            number
        );
    END LOOP;
END $$;

-- A cell, as pgnotifier.slot is: the slot that new ids go to.
CREATE SEQUENCE pgnotifier.done_slot AS smallint MINVALUE 0 START 0;
SELECT setval('pgnotifier.done_slot', 0);

-- When each slot was opened, and since when no open transaction uses it any more.
CREATE TABLE pgnotifier.done_slots (
    slot smallint PRIMARY KEY,
    opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    quiet_at timestamptz
);
INSERT INTO pgnotifier.done_slots (slot) SELECT generate_series(0, 3);

-- One row: how long ids are kept at least. Whoever gives space back locks it.
CREATE TABLE pgnotifier.done_keep (
    keep interval NOT NULL CHECK (keep > interval '0')
);
INSERT INTO pgnotifier.done_keep (keep) VALUES ('7 days');

-- Note that something is done, by the transaction that does it; return whether it is the first one
-- to. If another transaction is doing the same, wait until it has ended.
CREATE FUNCTION pgnotifier.once(id text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    sees_all boolean := current_setting('transaction_isolation') LIKE 'read%';
    is_done boolean;
    current_slot smallint;
BEGIN
    IF id IS NULL OR octet_length(id) NOT BETWEEN 1 AND 1024 THEN
        RAISE 'an id of what is done needs 1 to 1,024 bytes, not %',
            coalesce(octet_length(id)::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- The other transaction may have another slot, so that no index would make us wait for it.
    PERFORM pg_advisory_xact_lock(hashtextextended(id COLLATE "C", 1885957743));
    -- The end of this subtransaction gives the locks of the tables back: until the end of the
    -- transaction, they would keep slots from being truncated.
    BEGIN
        -- With READ COMMITTED, each statement sees what was committed before it began.
        is_done := EXISTS (SELECT FROM pgnotifier.done AS d WHERE d.id = id);
        -- Otherwise, what was committed since the transaction began isn't seen, but it is found by
        -- an index that would have the same id twice.
        IF NOT is_done AND NOT sees_all THEN
            FOR number IN 0..3 LOOP
                IF pg_relation_size(format('pgnotifier.done_%s', number)::regclass) > 0 THEN
                    INSERT INTO pgnotifier.done (slot, id) VALUES (number, id);
                END IF;
            END LOOP;
        END IF;
        RAISE SQLSTATE 'PN000';
    EXCEPTION
        WHEN SQLSTATE 'PN000' THEN NULL;
        WHEN unique_violation THEN
            RAISE 'could not serialize access: what this transaction is about to do was done by '
                'another one since it began' USING ERRCODE = 'serialization_failure';
    END;
    IF is_done THEN
        RETURN false;
    END IF;
    LOOP
        current_slot := coalesce(pg_sequence_last_value('pgnotifier.done_slot'), 0);
        INSERT INTO pgnotifier.done (slot, id) VALUES (current_slot, id);
        -- From now on, the slot is locked. If it was closed before that, it may already count as
        -- one that no open transaction uses, so the id is inserted into the next one, too.
        EXIT WHEN coalesce(pg_sequence_last_value('pgnotifier.done_slot'), 0) = current_slot;
    END LOOP;
    RETURN true;
END $$;

-- Give space back: truncate each slot that no open transaction has used for as long as ids are kept,
-- and open the next one once the current one is half as old. It never waits for anybody. Others wait
-- for it until the end of its transaction, so it needs one of its own. blocked: how many slots could
-- be truncated, but are in use, by pg_dump for example.
CREATE FUNCTION pgnotifier.reclaim_done(OUT freed int, OUT blocked int, OUT keep interval)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    current_slot int := coalesce(pg_sequence_last_value('pgnotifier.done_slot'), 0);
    now timestamptz := clock_timestamp();
    name regclass;
    slots record;
BEGIN
    freed := 0;
    blocked := 0;
    SELECT k.keep INTO keep FROM pgnotifier.done_keep AS k;
    -- One session at a time, which must see what the one before has done.
    IF current_setting('transaction_isolation') NOT LIKE 'read%' THEN
        RETURN;
    END IF;
    PERFORM FROM pgnotifier.done_keep FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    current_slot := coalesce(pg_sequence_last_value('pgnotifier.done_slot'), 0);
    UPDATE pgnotifier.done_slots SET quiet_at = NULL
    WHERE slot = current_slot AND quiet_at IS NOT NULL;
    FOR slots IN SELECT * FROM pgnotifier.done_slots WHERE slot <> current_slot LOOP
        name := format('pgnotifier.done_%s', slots.slot);
        CONTINUE WHEN pg_relation_size(name) = 0;
        BEGIN
            IF slots.quiet_at IS NULL THEN
                EXECUTE format('LOCK TABLE %s IN SHARE MODE NOWAIT', name);
                RAISE SQLSTATE 'PN000'; -- which gives the lock back
            ELSIF slots.quiet_at < now - keep THEN
                EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', name);
                EXECUTE format('TRUNCATE %s', name);
                freed := freed + 1;
            END IF;
        EXCEPTION
            WHEN SQLSTATE 'PN000' THEN
                UPDATE pgnotifier.done_slots SET quiet_at = now WHERE slot = slots.slot;
            WHEN lock_not_available THEN
                blocked := blocked + (slots.quiet_at IS NOT NULL)::int;
        END;
    END LOOP;
    name := format('pgnotifier.done_%s', current_slot);
    IF EXISTS (
        SELECT FROM pgnotifier.done_slots WHERE slot = current_slot AND opened_at < now - keep / 2
    ) THEN
        -- A slot without ids begins anew.
        SELECT number % 4 AS free INTO slots
        FROM generate_series(current_slot, current_slot + 3) AS number
        WHERE pg_relation_size(format('pgnotifier.done_%s', number % 4)::regclass) = 0
        ORDER BY number LIMIT 1;
        IF FOUND THEN
            UPDATE pgnotifier.done_slots SET opened_at = now, quiet_at = NULL
            WHERE slot = slots.free;
            PERFORM setval('pgnotifier.done_slot', slots.free);
        END IF;
    END IF;
END $$;

-- Set how long ids are kept at least; return whether that is new.
CREATE FUNCTION pgnotifier.keep_done(keep interval) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    UPDATE pgnotifier.done_keep AS k SET keep = keep WHERE k.keep IS DISTINCT FROM keep;
    RETURN FOUND;
END $$;

-- Listeners give space back.
REVOKE ALL ON FUNCTION pgnotifier.reclaim_done() FROM PUBLIC;
DO $$
DECLARE
    granted text;
BEGIN
    FOR granted IN
        SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_proc AS p CROSS JOIN aclexplode(p.proacl) AS a
        WHERE p.oid = 'pgnotifier.reclaim(interval, bigint, interval)'::regprocedure
            AND a.grantee <> p.proowner
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION pgnotifier.reclaim_done() TO %s', granted);
    END LOOP;
END $$;

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
