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
-- taken for a stranger: two would have had the subscription then. Neither is one that has to SET
-- ROLE for its rights.
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
                bool_or(
                    has_function_privilege(a.usesysid, 'pgnotifier.hold(int)', 'EXECUTE')
                    OR EXISTS (
                        SELECT FROM pg_proc AS p CROSS JOIN aclexplode(p.proacl) AS granted
                        WHERE p.oid = 'pgnotifier.hold(int)'::regprocedure
                            AND pg_has_role(a.usesysid, granted.grantee, 'MEMBER')
                    )
                ),
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

-- ===== Subscribing =====

-- As in version 1, but it doesn't fail if another session makes the subscription and a third one
-- forgets it at the same moment.
CREATE OR REPLACE FUNCTION pgnotifier.subscribe(
    name text, channel text, since text DEFAULT 'now',
    from_id bigint DEFAULT NULL, from_time timestamptz DEFAULT NULL
) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    number int;
BEGIN
    LOOP
        SELECT u.sub INTO number FROM pgnotifier.subscription AS u
        WHERE u.name = name AND u.channel = channel;
        IF FOUND THEN
            RETURN number;
        END IF;
        -- Until this is committed, nothing may be truncated, as nobody else can see the position.
        PERFORM FROM pgnotifier.installed FOR KEY SHARE;
        INSERT INTO pgnotifier.subscription AS u (name, channel) VALUES (name, channel)
        ON CONFLICT DO NOTHING RETURNING u.sub INTO number;
        EXIT WHEN FOUND; -- or else another session has just made it
    END LOOP;
    PERFORM pgnotifier.save(number, place.done, place.target, place.last_id)
    FROM pgnotifier.find_place(since, from_id, from_time) AS place;
    RETURN number;
END $$;

-- As in version 2, but it locks rows in the order in which note_reader() does, so that neither waits
-- in a circle.
CREATE OR REPLACE FUNCTION pgnotifier.find_unread(unread_for interval DEFAULT '1 hour')
RETURNS TABLE (name text, channel text, read_at timestamptz, slots int, bytes bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    WITH kept AS (
        SELECT k.sub, count(*)::int AS slots, sum(s.bytes)::bigint AS bytes
        FROM pgnotifier.slots() AS s CROSS JOIN unnest(s.keepers) AS k (sub) GROUP BY k.sub
    ), unread AS (
        SELECT l.sub, l.name, l.channel, l.read_at, k.slots, k.bytes
        FROM pgnotifier.list_positions() AS l JOIN kept AS k ON k.sub = l.sub
        WHERE l.pid IS NULL AND k.slots > 1 AND l.read_at < clock_timestamp() - unread_for
    ), noted AS (
        INSERT INTO pgnotifier.reader AS r (sub, pid, at, warned_at)
        SELECT u.sub, 0, u.read_at, clock_timestamp() FROM unread AS u
        ORDER BY u.sub
        ON CONFLICT (sub) DO UPDATE SET warned_at = excluded.warned_at
        WHERE r.warned_at IS NULL OR r.warned_at < clock_timestamp() - interval '1 day'
        RETURNING r.sub
    )
    SELECT u.name, u.channel, u.read_at, u.slots, u.bytes
    FROM unread AS u JOIN noted AS n ON n.sub = u.sub;
END $$;

-- ===== Dropping =====

-- As in version 2, but each entry that is dropped is noted, also if its transaction ends meanwhile,
-- and none that is delivered; and a position that isn't moved isn't locked any longer.
CREATE OR REPLACE FUNCTION pgnotifier.drop_behind(sub int) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
#variable_conflict use_variable
DECLARE
    cap record;
    place record;
    first record;
    top xid8;
    late xid8[];
    after_id bigint;
    from_id bigint := 0;
    before xid8;
    tick pg_snapshot;
    here pg_snapshot;
    open xid8[];
    done pg_snapshot;
    target pg_snapshot;
    missed record;
BEGIN
    SELECT m.* INTO cap FROM pgnotifier.max_lag AS m WHERE m.sub = sub;
    SELECT p.* INTO place FROM pgnotifier.positions AS p WHERE p.sub = sub;
    IF cap.sub IS NULL OR place.sub IS NULL OR pgnotifier.is_native(sub, place.n) IS NOT TRUE THEN
        RETURN false;
    END IF;
    top := pg_snapshot_xmax(place.done);
    after_id := CASE WHEN place.target IS NULL THEN 0 ELSE place.last_id END;
    late := ARRAY(SELECT pg_snapshot_xip(place.done)); -- what was open at done
    -- Of the next transactions, some may have begun long before they published.
    WITH RECURSIVE e (n, xid, id, at) AS (
        (
            SELECT 1, l.xid, l.id, l.at FROM pgnotifier.log AS l
            WHERE l.xid >= top AND l.id > after_id ORDER BY l.xid, l.id LIMIT 1
        )
        UNION ALL
        SELECT e.n + 1, l.* FROM e CROSS JOIN LATERAL (
            SELECT l.xid, l.id, l.at FROM pgnotifier.log AS l
            WHERE l.xid > e.xid AND l.id > after_id ORDER BY l.xid, l.id LIMIT 1
        ) AS l WHERE e.n < 20
    )
    SELECT e.* INTO first FROM (
        SELECT e.xid, e.id, e.at FROM e
        UNION ALL
        SELECT l.xid, l.id, l.at FROM unnest(late) AS x (xid) CROSS JOIN LATERAL (
            SELECT l.xid, l.id, l.at FROM pgnotifier.log AS l
            WHERE l.xid = x.xid AND l.id > after_id ORDER BY l.xid, l.id LIMIT 1
        ) AS l
    ) AS e ORDER BY e.id LIMIT 1;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF first.at < clock_timestamp() - cap.age THEN
        from_id := coalesce(
            (pgnotifier.find_boundary(first.xid, NULL, clock_timestamp() - cap.age)).id,
            pg_sequence_last_value('pgnotifier.log_id_seq') + 1
        );
    END IF;
    IF cap.bytes IS NOT NULL THEN
        from_id := greatest(from_id, pgnotifier.find_bytes(cap.bytes));
    END IF;
    from_id := greatest(
        from_id, pg_sequence_last_value('pgnotifier.log_id_seq') + 1 - cap.entries
    );
    IF first.id >= from_id THEN
        RETURN false;
    END IF;
    -- Whoever saves the position now goes on with that. This one is looked at again soon. The end of
    -- the subtransaction gives the lock back: to a reader, it means that its position is moved.
    BEGIN
        PERFORM FROM pgnotifier.subscription AS u WHERE u.sub = sub FOR UPDATE SKIP LOCKED;
        IF NOT FOUND OR EXISTS (
            SELECT FROM pgnotifier.position AS p WHERE p.sub = sub AND p.n > place.n
        ) THEN
            RAISE SQLSTATE 'PN000';
        END IF;
    EXCEPTION WHEN SQLSTATE 'PN000' THEN
        RETURN false;
    END;
    before := (
        (pgnotifier.find_boundary(first.xid, from_id, NULL)).before::text::bigint + 1
    )::text::xid8;
    -- In this order: what is open in `here` wasn't visible in a tick that was found before that.
    tick := pgnotifier.next_tick(format('%1$s:%1$s:', greatest(before, top))::pg_snapshot);
    here := pgnotifier.snapshot();
    target := CASE
        WHEN pg_snapshot_xmax(place.target) > before THEN place.target
        ELSE coalesce(tick, here)
    END;
    -- Dropped are the transactions before this one, and of the window that follows, ids below
    -- from_id. Of the former are left out those that were open when that window ended, and those that
    -- have published lately.
    open := ARRAY(
        SELECT one FROM pg_snapshot_xip(target) AS one WHERE one < greatest(before, top)
        UNION
        SELECT l.xid FROM pgnotifier.log AS l
        WHERE l.xid >= top AND l.xid < before AND l.id >= from_id
        UNION
        SELECT one FROM unnest(late) AS one
        WHERE EXISTS (SELECT FROM pgnotifier.log AS l WHERE l.xid = one AND l.id >= from_id)
        UNION
        SELECT one FROM pg_snapshot_xip(place.done) AS one WHERE one >= before
        ORDER BY 1
    );
    done := format(
        '%s:%s:%s', coalesce(open[1], greatest(before, top)), greatest(before, top),
        array_to_string(open, ',')
    );
    SELECT
        count(*) AS seen, count(*) FILTER (WHERE e.channel = place.channel) AS ours,
        min(e.id) FILTER (WHERE e.channel = place.channel) AS lowest,
        max(e.id) FILTER (WHERE e.channel = place.channel) AS highest,
        min(e.at) FILTER (WHERE e.channel = place.channel) AS first_at,
        max(e.at) FILTER (WHERE e.channel = place.channel) AS last_at
    INTO missed FROM (
        SELECT l.id, l.at, l.channel FROM pgnotifier.log AS l
        WHERE (l.xid >= top AND l.xid < pg_snapshot_xmax(target) OR l.xid = ANY (late))
            AND l.id < from_id
            AND NOT (l.id <= after_id AND pg_visible_in_snapshot(l.xid, place.target))
            -- the others are delivered after that window
            AND pg_visible_in_snapshot(l.xid, target)
        ORDER BY l.xid, l.id LIMIT 100001
    ) AS e;
    IF missed.seen <= 100000 THEN
        PERFORM pgnotifier.note_gap(
            sub, missed.lowest, missed.highest, missed.first_at, missed.last_at, missed.ours, true
        );
    ELSE -- it would take long to count them
        PERFORM pgnotifier.note_gap(
            sub, first.id, from_id - 1, first.at, greatest(first.at, (
                SELECT l.at FROM pgnotifier.log AS l
                WHERE l.xid >= before ORDER BY l.xid, l.id LIMIT 1
            )), from_id - first.id, false
        );
    END IF;
    PERFORM pgnotifier.save(sub, done, target, from_id - 1);
    RETURN true;
END $$;

-- ===== Reclaiming space =====

-- As in version 2, but once the log refuses publications, this looks again: space may have been given
-- back since the sizes were read, and whoever has done that may have looked too early.
CREATE OR REPLACE FUNCTION pgnotifier.apply_quota() RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_full boolean;
    refuses boolean;
BEGIN
    LOOP
        SELECT l.quota <= (
            SELECT sum(pg_total_relation_size(format('pgnotifier.log_%s', number)::regclass))
            FROM generate_series(0, 7) AS number
        ) INTO is_full FROM pgnotifier.limits AS l;
        refuses := coalesce(pg_sequence_last_value('pgnotifier.slot'), 0) = 8;
        EXIT WHEN is_full IS NOT TRUE OR refuses;
        PERFORM setval('pgnotifier.slot', 8);
    END LOOP;
    IF is_full IS NOT TRUE AND refuses THEN
        -- Go on with an empty slot, or else with the latest.
        PERFORM setval('pgnotifier.slot', best.number) FROM (
            SELECT number FROM generate_series(0, 7) AS number
            LEFT JOIN pgnotifier.slots() AS s ON s.slot = number
            ORDER BY s.last_id DESC LIMIT 1 -- nulls come first
        ) AS best;
    END IF;
    RETURN coalesce(is_full, false);
END $$;

-- As in version 2, but if something like VACUUM FULL locks a slot, the others are emptied all the
-- same, and the reader's session goes on. It also does while a transaction that forgets is open.
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
    DELETE FROM pgnotifier.position AS p USING (
        SELECT old.sub, old.n
        FROM pgnotifier.positions AS newest JOIN pgnotifier.position AS old
        ON old.sub = newest.sub AND old.n < newest.n - 1000
        FOR UPDATE OF old SKIP LOCKED -- somebody is forgetting the subscription
    ) AS old WHERE p.sub = old.sub AND p.n = old.n;
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
