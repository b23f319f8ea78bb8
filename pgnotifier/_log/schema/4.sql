-- Tables that have no primary key can be updated where there is a publication FOR ALL TABLES:
-- before_upgrade.sql does that. The log isn't updated, but see reanchor().

-- ===== Wake-ups =====

-- As in version 1, but pgnotifier.wake takes each spelling of false that PostgreSQL knows.
-- Executed with each publication while the bell is 1. NOTIFY needs no privilege, pg_notify() may.
CREATE OR REPLACE FUNCTION pgnotifier.ring() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Readers that sleep hold this lock together. If none does, they were killed: be quiet again.
    -- A single expression can't be interrupted half-way, with the lock still held.
    PERFORM CASE WHEN pg_try_advisory_lock(1885957742, 0) THEN
        setval('pgnotifier.bell', 0) + pg_advisory_unlock(1885957742, 0)::int
    END;
    -- Anything else means true: a misspelt setting must not make publications fail.
    IF lower(btrim(coalesce(current_setting('pgnotifier.wake', true), ''))) NOT IN (
            'off', 'of', 'false', 'fals', 'fal', 'fa', 'f', 'no', 'n', '0'
        )
        AND pg_sequence_last_value('pgnotifier.bell') > 0
    THEN
        NOTIFY pgnotifier_wake;
        -- A million publications in one transaction ring once. Like the NOTIFY, this is undone if
        -- the subtransaction is.
        PERFORM set_config('pgnotifier.rung', pg_current_xact_id()::text, true);
    END IF;
    RETURN NULL;
END $$;

-- ===== Holding =====

-- As in version 1, but a listener that gives the lock back at this very moment, or ends, isn't
-- taken for a stranger: two would have had the subscription then.
CREATE OR REPLACE FUNCTION pgnotifier.hold(sub int) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    has_listener boolean;
    has_changed boolean;
BEGIN
    FOR attempt IN 1..100 LOOP
        IF pg_try_advisory_lock(1885957742, sub) THEN
            RETURN true;
        END IF;
        PERFORM pg_stat_clear_snapshot(); -- sessions are listed once in a transaction otherwise
        SELECT
            coalesce(
                bool_or(has_function_privilege(a.usesysid, 'pgnotifier.hold(int)', 'EXECUTE')),
                false
            ),
            count(*) = 0 OR bool_or(l.pid IS NOT NULL AND a.pid IS NULL)
        INTO has_listener, has_changed
        FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
        WHERE l.locktype = 'advisory' AND l.classid = 1885957742 AND l.objid = sub
            AND l.objsubid = 2 AND l.granted
            AND l.database = (
                SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()
            );
        IF has_listener THEN
            RETURN false;
        ELSIF NOT has_changed THEN -- a prepared transaction, which has no pid, or a stranger
            RETURN true;
        END IF;
    END LOOP;
    RETURN false;
END $$;

-- ===== Rates =====

-- Entries a second by key: the keys of an outbox are its queues.
ALTER TABLE pgnotifier.reader ADD COLUMN keys text[], ADD COLUMN key_rates double precision[];

-- As in version 2, but rates by key are those of the reader that has noted them.
CREATE OR REPLACE FUNCTION pgnotifier.note_reader(subs int[], rates double precision[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO pgnotifier.reader AS r (sub, pid, rate)
    SELECT u.sub, pg_backend_pid(), given.rate
    FROM unnest(subs, rates) AS given (sub, rate)
    JOIN pgnotifier.subscription AS u ON u.sub = given.sub
    ORDER BY u.sub FOR KEY SHARE OF u
    ON CONFLICT (sub) DO UPDATE SET
        pid = excluded.pid, at = excluded.at, rate = excluded.rate, warned_at = NULL,
        keys = NULL, key_rates = NULL;
END $$;

-- A session reads this subscription, at these rates. Follows note_reader().
CREATE FUNCTION pgnotifier.note_keys(sub int, keys bytea[], rates double precision[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    UPDATE pgnotifier.reader AS r
    SET keys = ARRAY(
            SELECT convert_from(given.key, getdatabaseencoding())
            FROM unnest(keys) WITH ORDINALITY AS given (key, place) ORDER BY given.place
        ),
        key_rates = rates
    WHERE r.sub = sub AND r.pid = pg_backend_pid();
END $$;

-- Listeners note it.
DO $$
DECLARE
    granted text;
BEGIN
    REVOKE ALL ON FUNCTION pgnotifier.note_keys(int, bytea[], double precision[]) FROM PUBLIC;
    FOR granted IN
        SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_proc AS p CROSS JOIN aclexplode(p.proacl) AS a
        WHERE p.oid = 'pgnotifier.note_reader(int[], double precision[])'::regprocedure
            AND a.grantee <> p.proowner
    LOOP
        EXECUTE format(
            'GRANT EXECUTE ON FUNCTION pgnotifier.note_keys(int, bytea[], double precision[]) TO %s',
            granted
        );
    END LOOP;
END $$;

-- ===== Reclaiming space =====

-- As in version 2, but if something like VACUUM FULL locks a slot, the others are emptied all the
-- same, and the reader's session goes on.
CREATE OR REPLACE FUNCTION pgnotifier.reclaim(
    retention interval DEFAULT '0', slot_bytes bigint DEFAULT 67108864,
    slot_age interval DEFAULT '1 hour', OUT freed int, OUT blocked int
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms' AS $$
DECLARE
    current_slot int := coalesce(pg_sequence_last_value('pgnotifier.slot'), 0);
    name regclass;
    is_due boolean;
    all_bytes bigint := 0;
    oldest timestamptz;
    one timestamptz;
BEGIN
    freed := 0;
    blocked := 0;
    -- With an older snapshot, entries that it doesn't show would be truncated.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE 'pgnotifier.reclaim() needs READ COMMITTED'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    -- One session at a time, and not while a position is made.
    PERFORM FROM pgnotifier.installed FOR UPDATE SKIP LOCKED;
    IF NOT FOUND OR NOT pgnotifier.is_complete() THEN
        RETURN;
    END IF;
    BEGIN
        PERFORM pgnotifier.drop_behind(m.sub) FROM pgnotifier.max_lag AS m;
    EXCEPTION WHEN lock_not_available THEN
        blocked := blocked + 1;
    END;
    retention := greatest(retention, (SELECT max(l.retention) FROM pgnotifier.limits AS l));
    FOR number IN 0..7 LOOP
        name := format('pgnotifier.log_%s', number);
        BEGIN
            CONTINUE WHEN number = current_slot OR pg_relation_size(name) = 0
                OR NOT pgnotifier.is_passed(name, retention);
            -- A publisher's transaction that is open, or prepared, may be as long as it likes.
            EXECUTE format('LOCK TABLE %s IN SHARE MODE NOWAIT', name);
            -- Readers are soon done with their batch. New ones wait for us meanwhile.
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', name);
            IF pgnotifier.is_passed(name, retention) THEN
                EXECUTE format('TRUNCATE %s', name);
                freed := freed + 1;
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            blocked := blocked + 1;
        END;
    END LOOP;
    BEGIN
        IF NOT pgnotifier.apply_quota() AND current_slot < 8 THEN
            FOR number IN 0..7 LOOP
                name := format('pgnotifier.log_%s', number);
                CONTINUE WHEN pg_relation_size(name) = 0;
                all_bytes := all_bytes + pg_table_size(name);
                EXECUTE format('SELECT l.at FROM %s AS l ORDER BY l.xid, l.id LIMIT 1', name)
                INTO one;
                oldest := least(oldest, one);
            END LOOP;
            name := format('pgnotifier.log_%s', current_slot);
            EXECUTE format('SELECT l.at FROM %s AS l ORDER BY l.xid, l.id LIMIT 1', name) INTO one;
            is_due := pg_table_size(name) >= greatest(slot_bytes, all_bytes / 8)
                OR one < clock_timestamp() - greatest(slot_age, (clock_timestamp() - oldest) / 8);
        END IF;
        IF is_due THEN
            -- An open transaction keeps its slot from being emptied, so that slot is left out here.
            PERFORM setval('pgnotifier.slot', free) FROM (
                SELECT number % 8 AS free
                FROM generate_series(current_slot + 1, current_slot + 7) AS number
                WHERE pg_relation_size(format('pgnotifier.log_%s', number % 8)::regclass) = 0
                ORDER BY number LIMIT 1
            ) AS next;
        END IF;
    EXCEPTION WHEN lock_not_available THEN
        blocked := blocked + 1;
    END;
    DELETE FROM pgnotifier.position AS p USING pgnotifier.positions AS newest
    WHERE p.sub = newest.sub AND p.n < newest.n - 1000;
END $$;

-- ===== Copies =====

-- As in version 2, but positions of this server don't pass entries that were replicated: the server
-- may be a physical copy that has followed the original by logical replication and then takes over.
-- And a publication, which a dump contains, doesn't prevent the repair.
CREATE OR REPLACE FUNCTION pgnotifier.reanchor() RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    here pg_snapshot;
    place record;
    one regclass;
    changed regclass[];
    moved bigint;
    undelivered bigint := 0;
BEGIN
    IF current_setting('transaction_isolation') <> 'repeatable read' THEN
        RAISE 'pgnotifier.reanchor() needs REPEATABLE READ'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    IF NOT pgnotifier.is_complete() THEN
        RAISE 'the restore of the schema pgnotifier has not finished'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    PERFORM FROM pgnotifier.installed FOR UPDATE NOWAIT;
    PERFORM FROM pgnotifier.subscription FOR UPDATE NOWAIT;
    -- Logical replication copies no sequences, and none may lag behind its table.
    PERFORM setval(sequence, highest) FROM (
        VALUES
        ('pgnotifier.log_id_seq'::regclass, (SELECT max(l.id) FROM pgnotifier.log AS l)),
        ('pgnotifier.subscription_sub_seq', (SELECT max(u.sub) FROM pgnotifier.subscription AS u)),
        (
            'pgnotifier.position_n_seq',
            greatest(
                (SELECT max(p.n) FROM pgnotifier.position AS p),
                (SELECT max(g.n) FROM pgnotifier.gap AS g)
            )
        ),
        ('pgnotifier.failed_n_seq', (SELECT max(f.n) FROM pgnotifier.failed AS f))
    ) AS used (sequence, highest)
    WHERE highest > coalesce(pg_sequence_last_value(sequence), 0);
    here := pg_current_snapshot();
    FOR place IN
        SELECT p.*, coalesce(pgnotifier.is_native(p.sub, p.n), false) AS is_native
        FROM pgnotifier.positions AS p
    LOOP
        INSERT INTO pgnotifier.failed (sub, id, at, channel, key, payload)
        SELECT place.sub, l.id, l.at, l.channel, l.key, l.payload FROM pgnotifier.log AS l
        WHERE l.channel = place.channel AND CASE
            -- replicated: the position has passed it, or will have, once its transaction is 1
            WHEN place.is_native THEN NOT pg_visible_in_snapshot(l.xid, here)
                OR l.id > place.id_hi AND pg_visible_in_snapshot(l.xid, place.done)
            -- published here, since the copy was made
            WHEN l.id > place.id_hi OR l.at > place.at THEN true
            -- or there, and not delivered there
            ELSE NOT (
                pg_visible_in_snapshot(l.xid, place.done)
                OR (
                    place.target IS NOT NULL AND l.id <= place.last_id
                    AND pg_visible_in_snapshot(l.xid, place.target)
                )
            )
        END
        ORDER BY l.id;
        GET DIAGNOSTICS moved = ROW_COUNT;
        undelivered := undelivered + moved;
        IF NOT place.is_native THEN
            PERFORM pgnotifier.save(place.sub, here);
        END IF;
    END LOOP;
    LOOP
        BEGIN
            -- Entries of this server keep their transaction: positions of this server are not
            -- behind them.
            UPDATE pgnotifier.log SET
                snap = NULL,
                xid = CASE WHEN pg_visible_in_snapshot(xid, here) THEN xid ELSE '1' END
            WHERE snap IS NOT NULL OR NOT pg_visible_in_snapshot(xid, here);
            EXIT;
        EXCEPTION WHEN object_not_in_prerequisite_state THEN -- there is a publication
            IF changed IS NOT NULL THEN
                RAISE;
            END IF;
            PERFORM set_config('lock_timeout', '1s', true); -- publishers wait meanwhile
            changed := ARRAY(
                SELECT c.oid FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
                WHERE i.inhparent = 'pgnotifier.log'::regclass AND c.relreplident IN ('d', 'n')
            );
            FOREACH one IN ARRAY changed LOOP
                EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', one);
            END LOOP;
        END;
    END LOOP;
    FOREACH one IN ARRAY coalesce(changed, '{}') LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY DEFAULT', one);
    END LOOP;
    PERFORM pgnotifier.settle();
    RETURN undelivered;
END $$;

-- ===== The version =====

UPDATE pgnotifier.installed SET version = 4, at = clock_timestamp();
