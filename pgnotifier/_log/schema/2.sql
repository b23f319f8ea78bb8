-- ===== Limits of sizes, as constraints of domains =====

-- For each statement, PostgreSQL reads the CHECKs of a table anew, and plans them: a seventh of the
-- time that an INSERT of one entry took. Those of a domain it keeps. These commands lock the log, for
-- moments only: a domain that has no constraint yet doesn't have the table rewritten, and adding one
-- reads the table once. Publishers wait while the lock is waited for, so that isn't done for long; if
-- an open transaction or pg_dump uses the log, the upgrade fails, and can be repeated.
SELECT set_config('pgnotifier.lock_timeout_before', current_setting('lock_timeout'), true),
    set_config('lock_timeout', '5s', true);
CREATE DOMAIN pgnotifier.entry_channel AS text;
CREATE DOMAIN pgnotifier.entry_key AS text;
CREATE DOMAIN pgnotifier.entry_payload AS text;
ALTER TABLE pgnotifier.log
    DROP CONSTRAINT channel_size,
    DROP CONSTRAINT key_size,
    DROP CONSTRAINT payload_size,
    ALTER COLUMN channel TYPE pgnotifier.entry_channel,
    ALTER COLUMN key TYPE pgnotifier.entry_key,
    ALTER COLUMN payload TYPE pgnotifier.entry_payload;
ALTER DOMAIN pgnotifier.entry_channel
    ADD CONSTRAINT channel_size CHECK (octet_length(VALUE) BETWEEN 1 AND 63);
ALTER DOMAIN pgnotifier.entry_key
    ADD CONSTRAINT key_size CHECK (octet_length(VALUE) <= 1024);
ALTER DOMAIN pgnotifier.entry_payload
    ADD CONSTRAINT payload_size CHECK (octet_length(VALUE) <= 67108864);
SELECT set_config('lock_timeout', current_setting('pgnotifier.lock_timeout_before'), true);

-- As in version 1, but with keys and payloads of type text, which the columns no longer are.
-- The next entries of a channel in a window, in order. The query that calls it must have begun
-- after target was taken.
CREATE OR REPLACE FUNCTION pgnotifier.batch(
    channel text, done pg_snapshot, target pg_snapshot, last_id bigint, lim int
) RETURNS TABLE (id bigint, at timestamptz, key text, payload text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
SET jit = off AS $$
#variable_conflict use_column
DECLARE
    top bigint := pg_snapshot_xmax(done)::text;
    hi xid8 := pg_snapshot_xmax(target);
    -- Of what was in progress in done, what is recent makes the range wider; the rest, which an old
    -- transaction would make very wide, is looked up one by one.
    lo xid8 := coalesce(
        (
            SELECT one FROM pg_snapshot_xip(done) AS one
            WHERE one::text::bigint >= top - 1000 ORDER BY one LIMIT 1
        ),
        pg_snapshot_xmax(done)
    );
    late xid8[] := ARRAY(
        SELECT one FROM pg_snapshot_xip(done) AS one
        WHERE one::text::bigint < top - 1000 AND pg_visible_in_snapshot(one, target)
    );
    is_long boolean;
BEGIN
    -- A transaction may have published a million entries, which are sorted for each batch if they
    -- are read as one range. So that isn't done with a long window, or one of few transactions.
    is_long := hi::text::bigint - top <= 50 OR EXISTS (
        SELECT FROM pgnotifier.log AS l WHERE l.xid >= lo AND l.xid < hi OFFSET 20000
    );
    IF NOT is_long THEN
        RETURN QUERY
        SELECT w.id, w.at, w.key, w.payload FROM (
            SELECT l.id, l.at, l.key::text, l.payload::text FROM pgnotifier.log AS l
            WHERE l.xid >= lo AND l.xid < hi AND l.id > batch.last_id AND l.channel = batch.channel
                AND pg_visible_in_snapshot(l.xid, target)
                AND NOT pg_visible_in_snapshot(l.xid, done)
            UNION ALL
            SELECT o.* FROM unnest(late) AS x (xid) CROSS JOIN LATERAL (
                SELECT l.id, l.at, l.key::text, l.payload::text FROM pgnotifier.log AS l
                WHERE l.xid = x.xid AND l.id > batch.last_id AND l.channel = batch.channel
                ORDER BY l.xid, l.id LIMIT lim
            ) AS o
        ) AS w
        ORDER BY w.id LIMIT lim;
        RETURN;
    END IF;
    RETURN QUERY
    WITH RECURSIVE x (xid) AS ( -- each transaction of the window
        (
            SELECT l.xid FROM pgnotifier.log AS l
            WHERE l.xid >= lo AND l.xid < hi ORDER BY l.xid, l.id LIMIT 1
        )
        UNION ALL
        SELECT (
            SELECT l.xid FROM pgnotifier.log AS l
            WHERE l.xid > x.xid AND l.xid < hi ORDER BY l.xid, l.id LIMIT 1
        ) FROM x WHERE x.xid IS NOT NULL
    )
    SELECT o.* FROM (
        SELECT x.xid FROM x
        WHERE pg_visible_in_snapshot(x.xid, target) AND NOT pg_visible_in_snapshot(x.xid, done)
        UNION ALL SELECT unnest(late)
    ) AS x CROSS JOIN LATERAL (
        SELECT l.id, l.at, l.key::text, l.payload::text FROM pgnotifier.log AS l
        WHERE l.xid = x.xid AND l.id > batch.last_id AND l.channel = batch.channel
        ORDER BY l.xid, l.id LIMIT lim
    ) AS o
    ORDER BY o.id LIMIT lim;
END $$;

-- ===== Volatile listeners: pgnotifier.publish(..., notify => true) =====

-- With notify, volatile listeners get the entry as well. A NOTIFY on pgnotifier_published comes
-- before it, so that a session that reads the channel durably can recognise it. What is too long
-- for a NOTIFY goes out as a reference on pgnotifier_reference, a channel of its own, so that no
-- payload can be mistaken for one. Like all equal notifications of a transaction, equal ones become
-- one. NOTIFY needs no privilege, pg_notify() may.
CREATE FUNCTION pgnotifier.publish(
    channel text, payload text DEFAULT '', key text DEFAULT NULL, notify boolean DEFAULT false
) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    made bigint;
BEGIN
    INSERT INTO pgnotifier.log AS l (channel, key, payload) VALUES (channel, key, payload)
    RETURNING l.id INTO made;
    IF notify AND octet_length(payload) <= 7999 THEN
        EXECUTE format('NOTIFY pgnotifier_published, %L', channel);
        EXECUTE format('NOTIFY %I, %L', channel, payload);
    ELSIF notify THEN
        EXECUTE format(
            'NOTIFY pgnotifier_reference, %L', concat_ws(' ', pg_current_xact_id(), made, channel)
        );
    END IF;
    RETURN made;
END $$;

CREATE FUNCTION pgnotifier.publish(
    channel text, payload jsonb, key text DEFAULT NULL, notify boolean DEFAULT false
) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN pgnotifier.publish(channel, payload::text, key, notify);
END $$;

-- Whoever may execute the functions that these replace may execute these.
DO $$
DECLARE
    given record;
BEGIN
    REVOKE ALL ON FUNCTION
        pgnotifier.publish(text, text, text, boolean),
        pgnotifier.publish(text, jsonb, text, boolean)
    FROM PUBLIC;
    FOR given IN
        SELECT renewed.now, a.is_grantable, CASE
            WHEN a.grantee = 0 THEN 'PUBLIC'
            ELSE quote_ident(pg_get_userbyid(a.grantee))
        END AS grantee
        FROM (
            VALUES
            (
                'pgnotifier.publish(text, text, text)'::regprocedure,
                'pgnotifier.publish(text, text, text, boolean)'::regprocedure
            ),
            (
                'pgnotifier.publish(text, jsonb, text)'::regprocedure,
                'pgnotifier.publish(text, jsonb, text, boolean)'::regprocedure
            )
        ) AS renewed (before, now)
        JOIN pg_proc AS p ON p.oid = renewed.before
        CROSS JOIN LATERAL aclexplode(p.proacl) AS a
        WHERE a.grantee <> p.proowner
    LOOP
        EXECUTE format(
            'GRANT EXECUTE ON FUNCTION %s TO %s %s', given.now, given.grantee,
            CASE WHEN given.is_grantable THEN 'WITH GRANT OPTION' END
        );
    END LOOP;
END $$;
DROP FUNCTION pgnotifier.publish(text, text, text), pgnotifier.publish(text, jsonb, text);

-- ===== Copies: false alarms, new positions, and the server's clock =====

-- Move a position. Call it in the transaction that has taken the subscription.
CREATE OR REPLACE FUNCTION pgnotifier.save(
    sub int, done pg_snapshot, target pg_snapshot DEFAULT NULL, last_id bigint DEFAULT 0
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    made bigint;
    written bigint;
    own bigint;
BEGIN
    INSERT INTO pgnotifier.position AS p (sub, done, target, last_id, id_hi)
    VALUES (
        sub, done, target, last_id,
        coalesce(pg_sequence_last_value('pgnotifier.log_id_seq'), 0)
    )
    RETURNING p.n, p.xmin::text::bigint, p.mark::text::bigint INTO made, written, own;
    -- After a savepoint, rows have the number of the subtransaction, which is higher. The mark has
    -- to be the same, or the position would seem to be another server's.
    IF written <> own % 4294967296 THEN
        UPDATE pgnotifier.position AS p
        SET mark = (own + (written - own % 4294967296 + 4294967296) % 4294967296)::text::xid8
        WHERE p.sub = sub AND p.n = made;
    END IF;
    RETURN made;
END $$;

-- Find the position from which on a subscription gets everything since some moment.
-- since: 'now', 'oldest', 'id' (from this id on) or 'time'. A few entries from before may follow,
-- too; none from then on is left out.
CREATE OR REPLACE FUNCTION pgnotifier.find_place(
    since text, from_id bigint, from_time timestamptz,
    OUT done pg_snapshot, OUT target pg_snapshot, OUT last_id bigint
)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    first bigint := from_id;
BEGIN
    -- In a copy, "now" would come before entries that were copied, as their transactions have the
    -- numbers of another server.
    IF NOT pgnotifier.is_here() THEN
        RAISE 'the log was copied from another server, and is not repaired yet'
            USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Call pgnotifier.reanchor() in a transaction with REPEATABLE READ.';
    END IF;
    last_id := 0;
    IF since = 'now' THEN
        done := pgnotifier.snapshot();
        RETURN;
    END IF;
    done := '1:1:';
    IF since = 'oldest' THEN
        RETURN;
    ELSIF since NOT IN ('id', 'time') OR coalesce(from_id::text, from_time::text) IS NULL THEN
        RAISE 'can''t find a place in the log since %', since;
    END IF;
    -- The server's clock may have been set back, so of two entries the later one may seem older.
    IF since = 'time' THEN
        SELECT coalesce(min(l.id), 9223372036854775807) INTO first FROM pgnotifier.log AS l
        WHERE l.at >= from_time;
    END IF;
    -- A tick shows lower ids than its own only.
    SELECT l.snap INTO done FROM (
        SELECT l.snap FROM pgnotifier.log AS l WHERE l.snap IS NOT NULL AND l.id <= first
        UNION ALL SELECT '1:1:'
    ) AS l
    WHERE pg_snapshot_xmax(l.snap) <= pg_snapshot_xmax(pg_current_snapshot())
    ORDER BY pg_snapshot_xmax(l.snap) DESC LIMIT 1;
    target := pgnotifier.next_target(done);
    -- Of this window, leave out what comes before. In later windows, nothing is left out.
    last_id := coalesce(
        from_id,
        (
            SELECT l.id FROM pgnotifier.log AS l
            WHERE l.at >= from_time AND l.xid < pg_snapshot_xmax(target)
                AND pg_visible_in_snapshot(l.xid, target)
            ORDER BY l.id LIMIT 1
        ),
        coalesce(pg_sequence_last_value('pgnotifier.log_id_seq'), 0) + 1
    ) - 1;
END $$;

-- After a dump was restored, or the database was replicated logically, the transactions in the log
-- and in the positions are another server's. Keep what was undelivered at a copied position in
-- pgnotifier.failed, make all copied entries visible to everybody, and let positions begin again.
-- Returns how many entries were undelivered.
CREATE OR REPLACE FUNCTION pgnotifier.reanchor() RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    here pg_snapshot;
    place record;
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
        ('pgnotifier.position_n_seq', (SELECT max(p.n) FROM pgnotifier.position AS p)),
        ('pgnotifier.failed_n_seq', (SELECT max(f.n) FROM pgnotifier.failed AS f))
    ) AS used (sequence, highest)
    WHERE highest > coalesce(pg_sequence_last_value(sequence), 0);
    here := pg_current_snapshot();
    FOR place IN
        SELECT p.* FROM pgnotifier.positions AS p
        WHERE pgnotifier.is_native(p.sub, p.n) IS NOT TRUE
    LOOP
        INSERT INTO pgnotifier.failed (sub, id, at, channel, key, payload)
        SELECT place.sub, l.id, l.at, l.channel, l.key, l.payload FROM pgnotifier.log AS l
        WHERE l.channel = place.channel AND (
            -- published here, since the copy was made
            l.id > place.id_hi OR l.at > place.at
            -- or there, and not delivered there
            OR NOT (
                pg_visible_in_snapshot(l.xid, place.done)
                OR (
                    place.target IS NOT NULL AND l.id <= place.last_id
                    AND pg_visible_in_snapshot(l.xid, place.target)
                )
            )
        )
        ORDER BY l.id;
        GET DIAGNOSTICS moved = ROW_COUNT;
        undelivered := undelivered + moved;
        PERFORM pgnotifier.save(place.sub, here);
    END LOOP;
    -- Entries of this server keep their transaction: positions of this server are not behind them.
    UPDATE pgnotifier.log SET
        snap = NULL, xid = CASE WHEN pg_visible_in_snapshot(xid, here) THEN xid ELSE '1' END
    WHERE snap IS NOT NULL OR NOT pg_visible_in_snapshot(xid, here);
    PERFORM pgnotifier.settle();
    RETURN undelivered;
END $$;

-- ===== The version =====

UPDATE pgnotifier.installed SET version = 2, at = clock_timestamp();
