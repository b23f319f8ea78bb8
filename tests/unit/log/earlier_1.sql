CREATE SCHEMA pgnotifier;

-- One row: which version this is. What must not happen while space is given back or positions are
-- made locks it. Publishers have no right to it, so that none of them can hold anything up.
CREATE TABLE pgnotifier.installed (
    version int NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Three rows that prove that this schema was written here and not copied here: each was inserted by a
-- subtransaction of its own, and names the one before. If they are copied, their xmins change.
CREATE TABLE pgnotifier.origin (
    n int PRIMARY KEY,
    before bigint -- xmin of the row before
);

CREATE FUNCTION pgnotifier.settle() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM pgnotifier.origin;
    FOR number IN 1..3 LOOP
        -- The first one is undone: a copy made by an INSERT for each row would have consecutive
        -- transactions, too.
        FOR keeps IN 0..1 LOOP
            BEGIN
                INSERT INTO pgnotifier.origin (n, before)
                SELECT number, (
                    SELECT o.xmin::text::bigint FROM pgnotifier.origin AS o WHERE o.n = number - 1
                );
                IF keeps = 0 THEN
                    RAISE division_by_zero;
                END IF;
            EXCEPTION WHEN division_by_zero THEN NULL;
            END;
        END LOOP;
    END LOOP;
END $$;
SELECT pgnotifier.settle();

CREATE FUNCTION pgnotifier.is_here() RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN 2 = (
        SELECT count(*) FROM pgnotifier.origin AS one JOIN pgnotifier.origin AS two
        ON two.n = one.n + 1 AND two.before = one.xmin::text::bigint
    );
END $$;

-- Two cells, not counters: sequences can be read and written at once, outside of any transaction.
-- bell is 1 while a reader sleeps. slot is the number of the slot that new entries go to.
CREATE SEQUENCE pgnotifier.bell MINVALUE 0 START 0;
CREATE SEQUENCE pgnotifier.slot AS smallint MINVALUE 0 START 0;
SELECT setval('pgnotifier.bell', 0), setval('pgnotifier.slot', 0);

-- Executed with each publication while the bell is 1. NOTIFY needs no privilege, pg_notify() may.
CREATE FUNCTION pgnotifier.ring() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Readers that sleep hold this lock together. If none does, they were killed: be quiet again.
    -- A single expression can't be interrupted half-way, with the lock still held.
    PERFORM CASE WHEN pg_try_advisory_lock(1885957742, 0) THEN
        setval('pgnotifier.bell', 0) + pg_advisory_unlock(1885957742, 0)::int
    END;
    IF coalesce(current_setting('pgnotifier.wake', true), '') NOT IN ('off', 'false', 'no', '0')
        AND pg_sequence_last_value('pgnotifier.bell') > 0
    THEN
        NOTIFY pgnotifier_wake;
        -- A million publications in one transaction ring once. Like the NOTIFY, this is undone if
        -- the subtransaction is.
        PERFORM set_config('pgnotifier.rung', pg_current_xact_id()::text, true);
    END IF;
    RETURN NULL;
END $$;

-- The transaction that calls it is in progress, so nothing that it publishes counts as visible.
-- pg_current_snapshot() leaves out the caller's own transaction.
CREATE FUNCTION pgnotifier.snapshot() RETURNS pg_snapshot
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seen pg_snapshot := pg_current_snapshot();
    own xid8 := pg_current_xact_id_if_assigned();
BEGIN
    IF own IS NULL OR own >= pg_snapshot_xmax(seen) THEN
        RETURN seen;
    END IF;
    RETURN format(
        '%s:%s:%s',
        CASE WHEN own < pg_snapshot_xmin(seen) THEN own ELSE pg_snapshot_xmin(seen) END,
        pg_snapshot_xmax(seen),
        (
            SELECT string_agg(one::text, ',' ORDER BY one)
            FROM (SELECT pg_snapshot_xip(seen) AS one UNION SELECT own) AS running
        )
    );
END $$;

-- The log: one row, an entry, for each publication.
CREATE TABLE pgnotifier.log (
    -- About one entry in a thousand keeps the snapshot that its publisher saw: a tick, at which a
    -- window of reading may end. It comes before id: then each entry that it shows has a lower id.
    snap pg_snapshot DEFAULT CASE WHEN random() < 0.001 THEN pgnotifier.snapshot() END,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY (CACHE 1), -- ids give the order
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    slot smallint NOT NULL DEFAULT coalesce(pg_sequence_last_value('pgnotifier.slot'), 0),
    woke boolean DEFAULT CASE -- always null: this wakes readers
        WHEN pg_sequence_last_value('pgnotifier.bell') > 0
            AND current_setting('pgnotifier.rung', true)
                IS DISTINCT FROM pg_current_xact_id()::text
        THEN pgnotifier.ring()
    END,
    channel text NOT NULL,
    key text,
    payload text NOT NULL,
    CONSTRAINT channel_size CHECK (octet_length(channel) BETWEEN 1 AND 63),
    CONSTRAINT key_size CHECK (octet_length(key) <= 1024),
    CONSTRAINT payload_size CHECK (octet_length(payload) <= 67108864)
) PARTITION BY LIST (slot);

-- The slots. TRUNCATE empties them and nothing is ever deleted from one, so that there is nothing
-- to vacuum.
DO $$
BEGIN
    FOR number IN 0..7 LOOP
        EXECUTE format(
            'CREATE TABLE pgnotifier.log_%s PARTITION OF pgnotifier.log FOR VALUES IN (%s)'
            ' WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off)',
            number, number
        );
    END LOOP;
END $$;
CREATE INDEX log_xid_id ON pgnotifier.log (xid, id);

CREATE TABLE pgnotifier.subscription (
    sub int PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 1024),
    channel text NOT NULL CHECK (octet_length(channel) BETWEEN 1 AND 63),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (name, channel)
);

-- The newest row of a subscription is its position. Rows are only added: one that was updated
-- again and again would be slow to read while an old transaction is open.
CREATE TABLE pgnotifier.position (
    sub int NOT NULL REFERENCES pgnotifier.subscription ON DELETE CASCADE,
    n bigint NOT NULL GENERATED ALWAYS AS IDENTITY (CACHE 1),
    done pg_snapshot NOT NULL, -- each entry visible in it is delivered
    target pg_snapshot, -- the window under way: what is visible in it, and not in done
    last_id bigint NOT NULL DEFAULT 0, -- of that window, ids up to this one are delivered
    id_hi bigint NOT NULL, -- no entry visible in done or target has a higher id
    mark xid8 NOT NULL DEFAULT pg_current_xact_id(), -- this row's xmin, unless it was copied here
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (sub, n)
);

CREATE VIEW pgnotifier.positions AS
SELECT u.name, u.channel, p.*
FROM pgnotifier.subscription AS u
CROSS JOIN LATERAL (
    SELECT * FROM pgnotifier.position AS p WHERE p.sub = u.sub ORDER BY p.n DESC LIMIT 1
) AS p;

-- Entries that have failed, to be retried or, once dead, kept; and what was undelivered when the
-- database was copied.
CREATE TABLE pgnotifier.failed (
    n bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    sub int NOT NULL REFERENCES pgnotifier.subscription ON DELETE CASCADE,
    id bigint NOT NULL,
    at timestamptz NOT NULL,
    channel text NOT NULL,
    key text,
    payload text NOT NULL,
    attempts int NOT NULL DEFAULT 0,
    retry_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    error text,
    traceback text,
    failed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    dead boolean NOT NULL DEFAULT false
);
CREATE INDEX failed_due ON pgnotifier.failed (sub, retry_at, n) WHERE NOT dead;
CREATE INDEX failed_dead ON pgnotifier.failed (sub, n) WHERE dead;

CREATE FUNCTION pgnotifier.publish(channel text, payload text DEFAULT '', key text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    made bigint;
BEGIN
    INSERT INTO pgnotifier.log AS l (channel, key, payload) VALUES (channel, key, payload)
    RETURNING l.id INTO made;
    RETURN made;
END $$;

CREATE FUNCTION pgnotifier.publish(channel text, payload jsonb, key text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN pgnotifier.publish(channel, payload::text, key);
END $$;

-- Have other transactions that publish with these keys wait until this one ends, so that ids, and
-- with them deliveries, are in the order of these calls. Locks that are taken together are taken in
-- the same order by everybody, so that nobody waits in a circle.
CREATE FUNCTION pgnotifier.lock_keys(channel text, keys text[]) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(number) FROM (
        SELECT DISTINCT hashtextextended(concat(channel, chr(1), key) COLLATE "C", 1885957742)
        FROM unnest(keys) AS key WHERE key IS NOT NULL ORDER BY 1
    ) AS locks (number);
    RETURN true;
END $$;

-- A reader is about to sleep. Returns whether it shares the lock of those that sleep; another
-- session may hold it, which costs some notifications too many, or the next poll's delay.
CREATE FUNCTION pgnotifier.doze() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shares boolean;
BEGIN
    FOR attempt IN 1..20 LOOP
        shares := pg_try_advisory_lock_shared(1885957742, 0);
        EXIT WHEN shares;
        PERFORM pg_sleep(0.001);
    END LOOP;
    PERFORM setval('pgnotifier.bell', 1);
    RETURN shares;
END $$;

-- A reader has woken. The last one turns the bell off.
CREATE FUNCTION pgnotifier.awake(shares boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF shares THEN
        PERFORM pg_advisory_unlock_shared(1885957742, 0);
    END IF;
    PERFORM CASE WHEN pg_try_advisory_lock(1885957742, 0) THEN
        setval('pgnotifier.bell', 0) + pg_advisory_unlock(1885957742, 0)::int
    END;
END $$;

-- Where the window that begins at done may end: the second tick from there, or null for now.
CREATE FUNCTION pgnotifier.next_tick(done pg_snapshot) RETURNS pg_snapshot
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    top xid8 := pg_snapshot_xmax(done);
    now_top xid8 := pg_snapshot_xmax(pg_current_snapshot());
    tick pg_snapshot;
BEGIN
    SELECT l.snap INTO tick FROM pgnotifier.log AS l
    WHERE l.xid >= top AND l.snap IS NOT NULL
        AND pg_snapshot_xmax(l.snap) > top AND pg_snapshot_xmax(l.snap) <= now_top
    ORDER BY l.xid, l.id OFFSET 1 LIMIT 1;
    RETURN tick;
END $$;

CREATE FUNCTION pgnotifier.next_target(done pg_snapshot) RETURNS pg_snapshot
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN coalesce(pgnotifier.next_tick(done), pgnotifier.snapshot());
END $$;

-- The next entries of a channel in a window, in order. The query that calls it must have begun
-- after target was taken.
CREATE FUNCTION pgnotifier.batch(
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
            SELECT l.id, l.at, l.key, l.payload FROM pgnotifier.log AS l
            WHERE l.xid >= lo AND l.xid < hi AND l.id > batch.last_id AND l.channel = batch.channel
                AND pg_visible_in_snapshot(l.xid, target)
                AND NOT pg_visible_in_snapshot(l.xid, done)
            UNION ALL
            SELECT o.* FROM unnest(late) AS x (xid) CROSS JOIN LATERAL (
                SELECT l.id, l.at, l.key, l.payload FROM pgnotifier.log AS l
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
        SELECT l.id, l.at, l.key, l.payload FROM pgnotifier.log AS l
        WHERE l.xid = x.xid AND l.id > batch.last_id AND l.channel = batch.channel
        ORDER BY l.xid, l.id LIMIT lim
    ) AS o
    ORDER BY o.id LIMIT lim;
END $$;

-- Whether a position was written here, and not copied here from elsewhere.
CREATE FUNCTION pgnotifier.is_native(sub int, n bigint) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    RETURN (
        SELECT p.xmin::text::bigint = p.mark::text::bigint % 4294967296
            AND pg_snapshot_xmax(p.done) <= pg_snapshot_xmax(pg_current_snapshot())
            AND pgnotifier.is_here()
        FROM pgnotifier.position AS p WHERE p.sub = sub AND p.n = n
    );
END $$;

-- Lock a subscription until the transaction ends, and find its window. `ahead` is where the caller
-- knows that everything up to there is done, if the position's n is still `known`.
-- state: 'taken', 'busy' (locked by another session), 'gone' (it doesn't exist), 'foreign' (the
-- position was copied here). is_now: whether the window ends now, and not at a tick. newest: the
-- highest id that was drawn so far.
CREATE FUNCTION pgnotifier.take(
    sub int, known bigint DEFAULT NULL, ahead pg_snapshot DEFAULT NULL,
    OUT state text, OUT channel text, OUT n bigint, OUT done pg_snapshot, OUT target pg_snapshot,
    OUT last_id bigint, OUT is_now boolean, OUT id_hi bigint, OUT newest bigint
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    -- Each statement below needs a snapshot of its own, newer than the lock.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE 'pgnotifier.take() needs READ COMMITTED' USING ERRCODE = 'invalid_transaction_state';
    END IF;
    SELECT u.channel INTO channel FROM pgnotifier.subscription AS u
    WHERE u.sub = sub FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        state := CASE
            WHEN EXISTS (SELECT FROM pgnotifier.subscription AS u WHERE u.sub = sub) THEN 'busy'
            ELSE 'gone'
        END;
        RETURN;
    END IF;
    SELECT p.n, p.done, p.target, p.last_id, p.id_hi INTO n, done, target, last_id, id_hi
    FROM pgnotifier.position AS p WHERE p.sub = sub ORDER BY p.n DESC LIMIT 1;
    IF pgnotifier.is_native(sub, n) IS NOT TRUE THEN
        state := 'foreign';
        RETURN;
    END IF;
    state := 'taken';
    is_now := false;
    IF n = known THEN
        done := ahead;
        target := NULL;
        last_id := 0;
    END IF;
    IF target IS NULL THEN
        target := pgnotifier.next_tick(done);
        IF target IS NULL THEN
            target := pgnotifier.snapshot();
            is_now := true;
        END IF;
    END IF;
    newest := coalesce(pg_sequence_last_value('pgnotifier.log_id_seq'), 0);
END $$;

-- Have other sessions leave a subscription alone, without a transaction that stays open. Returns
-- false if another listener's session holds it. Any role can take an advisory lock; one that is
-- held by a role without the rights of a listener is ignored. Two readers then may read the same
-- entries, and only one of them moves the position.
CREATE FUNCTION pgnotifier.hold(sub int) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN pg_try_advisory_lock(1885957742, sub) OR NOT EXISTS (
        SELECT FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
        WHERE l.locktype = 'advisory' AND l.classid = 1885957742 AND l.objid = sub
            AND l.objsubid = 2 AND l.granted AND a.datname = current_database()
            AND has_function_privilege(a.usesysid, 'pgnotifier.hold(int)', 'EXECUTE')
    );
END $$;

-- Move a position. Call it in the transaction that has taken the subscription.
CREATE FUNCTION pgnotifier.save(
    sub int, done pg_snapshot, target pg_snapshot DEFAULT NULL, last_id bigint DEFAULT 0
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    made bigint;
BEGIN
    INSERT INTO pgnotifier.position AS p (sub, done, target, last_id, id_hi)
    VALUES (
        sub, done, target, last_id,
        coalesce(pg_sequence_last_value('pgnotifier.log_id_seq'), 0)
    )
    RETURNING p.n INTO made;
    RETURN made;
END $$;

-- Find the position from which on a subscription gets everything since some moment.
-- since: 'now', 'oldest', 'id' (from this id on) or 'time'. A few entries from before may follow,
-- too; none from then on is left out.
CREATE FUNCTION pgnotifier.find_place(
    since text, from_id bigint, from_time timestamptz,
    OUT done pg_snapshot, OUT target pg_snapshot, OUT last_id bigint
)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
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
    -- A tick shows lower ids than its own only, and only what is older than it.
    SELECT l.snap INTO done FROM (
        SELECT l.snap FROM pgnotifier.log AS l
        WHERE l.snap IS NOT NULL AND (l.id <= from_id OR l.at < from_time)
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

-- Return a subscription's number; if it is new, make its position first.
CREATE FUNCTION pgnotifier.subscribe(
    name text, channel text, since text DEFAULT 'now',
    from_id bigint DEFAULT NULL, from_time timestamptz DEFAULT NULL
) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    number int;
BEGIN
    SELECT u.sub INTO number FROM pgnotifier.subscription AS u
    WHERE u.name = name AND u.channel = channel;
    IF FOUND THEN
        RETURN number;
    END IF;
    -- Until this is committed, nothing may be truncated, as nobody else can see the position.
    PERFORM FROM pgnotifier.installed FOR KEY SHARE;
    INSERT INTO pgnotifier.subscription AS u (name, channel) VALUES (name, channel)
    ON CONFLICT DO NOTHING RETURNING u.sub INTO number;
    IF number IS NULL THEN -- another session has just made it
        SELECT u.sub INTO STRICT number FROM pgnotifier.subscription AS u
        WHERE u.name = name AND u.channel = channel;
        RETURN number;
    END IF;
    PERFORM pgnotifier.save(number, place.done, place.target, place.last_id)
    FROM pgnotifier.find_place(since, from_id, from_time) AS place;
    RETURN number;
END $$;

-- Move a subscription elsewhere; it waits until the batch under way is done. Returns false if
-- there is no such subscription.
CREATE FUNCTION pgnotifier.seek(
    name text, channel text, since text,
    from_id bigint DEFAULT NULL, from_time timestamptz DEFAULT NULL
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    number int;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE 'pgnotifier.seek() needs READ COMMITTED' USING ERRCODE = 'invalid_transaction_state';
    END IF;
    SELECT u.sub INTO number FROM pgnotifier.subscription AS u
    WHERE u.name = name AND u.channel = channel FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM FROM pgnotifier.installed FOR KEY SHARE;
    PERFORM pgnotifier.save(number, place.done, place.target, place.last_id)
    FROM pgnotifier.find_place(since, from_id, from_time) AS place;
    RETURN true;
END $$;

-- Delete a subscription, its position and what has failed for it.
CREATE FUNCTION pgnotifier.forget(name text, channel text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    DELETE FROM pgnotifier.subscription AS u WHERE u.name = name AND u.channel = channel;
    RETURN FOUND;
END $$;

-- Whether a restore of this schema has come to its end; indexes and constraints come last.
CREATE FUNCTION pgnotifier.is_complete() RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM pg_index
        WHERE indexrelid = to_regclass('pgnotifier.log_xid_id') AND indisvalid
    ) AND 3 = (
        SELECT count(*) FROM pg_constraint WHERE (conrelid, contype) IN (
            (to_regclass('pgnotifier.position'), 'f'), (to_regclass('pgnotifier.failed'), 'f'),
            (to_regclass('pgnotifier.failed'), 'p')
        )
    ) AND EXISTS (SELECT FROM pgnotifier.installed) AND 3 = (SELECT count(*) FROM pgnotifier.origin);
END $$;

-- Whether all that a slot holds is delivered to every subscription, and is older than retention.
CREATE FUNCTION pgnotifier.is_passed(slot regclass, retention interval) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    passed boolean;
BEGIN
    EXECUTE format(
        $q$
        SELECT NOT EXISTS (
            SELECT FROM pgnotifier.subscription AS u
            LEFT JOIN LATERAL (
                SELECT * FROM pgnotifier.position AS p
                WHERE p.sub = u.sub ORDER BY p.n DESC LIMIT 1
            ) AS p ON true
            WHERE p.n IS NULL OR pgnotifier.is_native(p.sub, p.n) IS NOT TRUE
                OR EXISTS (SELECT FROM %1$s AS l WHERE l.xid >= pg_snapshot_xmax(p.done))
                OR EXISTS (
                    SELECT FROM %1$s AS l
                    WHERE l.xid = ANY (ARRAY(SELECT pg_snapshot_xip(p.done)))
                )
        ) AND coalesce(
            (
                SELECT l.at < clock_timestamp() - $1 FROM %1$s AS l
                ORDER BY l.xid DESC, l.id DESC LIMIT 1
            ),
            true
        )
        $q$,
        slot
    ) INTO passed USING retention;
    RETURN passed;
END $$;

-- Give space back: truncate each slot that all subscriptions have passed, and have new entries go
-- to an empty one once the current one is large or old enough. blocked: how many slots could be
-- truncated, but are in use, by pg_dump for example.
CREATE FUNCTION pgnotifier.reclaim(
    retention interval DEFAULT '0', slot_bytes bigint DEFAULT 67108864,
    slot_age interval DEFAULT '1 hour', OUT freed int, OUT blocked int
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms' AS $$
DECLARE
    current_slot int := coalesce(pg_sequence_last_value('pgnotifier.slot'), 0);
    name regclass;
    is_due boolean;
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
    FOR number IN 0..7 LOOP
        name := format('pgnotifier.log_%s', number);
        CONTINUE WHEN number = current_slot OR pg_relation_size(name) = 0
            OR NOT pgnotifier.is_passed(name, retention);
        BEGIN
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
    name := format('pgnotifier.log_%s', current_slot);
    EXECUTE format(
        'SELECT pg_table_size($1) >= $2 OR (SELECT l.at FROM %s AS l ORDER BY l.xid, l.id LIMIT 1)'
        ' < clock_timestamp() - $3', name
    ) INTO is_due USING name, slot_bytes, slot_age;
    IF is_due THEN
        -- An open transaction keeps its slot from being emptied, so that slot is left out here.
        PERFORM setval('pgnotifier.slot', free) FROM (
            SELECT number % 8 AS free
            FROM generate_series(current_slot + 1, current_slot + 7) AS number
            WHERE pg_relation_size(format('pgnotifier.log_%s', number % 8)::regclass) = 0
            ORDER BY number LIMIT 1
        ) AS next;
    END IF;
    DELETE FROM pgnotifier.position AS p USING pgnotifier.positions AS newest
    WHERE p.sub = newest.sub AND p.n < newest.n - 1000;
END $$;

-- After a dump was restored, or the database was replicated logically, the transactions in the log
-- and in the positions are another server's. Keep what was undelivered at a copied position in
-- pgnotifier.failed, make all copied entries visible to everybody, and let positions begin again.
-- Returns how many entries were undelivered.
CREATE FUNCTION pgnotifier.reanchor() RETURNS bigint
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
    UPDATE pgnotifier.log SET xid = '1', snap = NULL
    WHERE snap IS NOT NULL OR NOT pg_visible_in_snapshot(xid, here);
    PERFORM pgnotifier.settle();
    RETURN undelivered;
END $$;

-- Keep an entry that has failed, to be tried again after some seconds unless it is dead.
CREATE FUNCTION pgnotifier.fail(
    sub int, id bigint, at timestamptz, channel text, key text, payload text,
    error text, traceback text, retry_in double precision, dead boolean
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    made bigint;
BEGIN
    INSERT INTO pgnotifier.failed AS f (
        sub, id, at, channel, key, payload, attempts, retry_at, error, traceback, dead
    ) VALUES (
        sub, id, at, channel, key, payload, 1,
        clock_timestamp() + make_interval(secs => retry_in), error, traceback, dead
    )
    RETURNING f.n INTO made;
    RETURN made;
END $$;

-- The entries of a subscription that are to be tried again now, locked.
CREATE FUNCTION pgnotifier.due(sub int, lim int)
RETURNS TABLE (
    n bigint, id bigint, at timestamptz, key text, payload text, attempts int
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT f.n, f.id, f.at, f.key, f.payload, f.attempts FROM pgnotifier.failed AS f
    WHERE f.sub = due.sub AND NOT f.dead AND f.retry_at <= clock_timestamp()
    ORDER BY f.retry_at, f.n LIMIT lim FOR UPDATE SKIP LOCKED;
END $$;

-- One has failed again.
CREATE FUNCTION pgnotifier.fail_again(
    n bigint, error text, traceback text, retry_in double precision, dead boolean
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    UPDATE pgnotifier.failed AS f SET
        attempts = f.attempts + 1, error = error, traceback = traceback, dead = dead,
        failed_at = clock_timestamp(),
        retry_at = clock_timestamp() + make_interval(secs => retry_in)
    WHERE f.n = n;
END $$;

-- Have entries tried again at once, with all their attempts. Returns how many there are.
CREATE FUNCTION pgnotifier.retry(numbers bigint[]) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed int;
BEGIN
    UPDATE pgnotifier.failed AS f SET dead = false, attempts = 0, retry_at = clock_timestamp()
    WHERE f.n = ANY (numbers);
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END $$;

-- Delete entries, which are done or given up. Returns how many there were.
CREATE FUNCTION pgnotifier.drop_failed(numbers bigint[]) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed int;
BEGIN
    DELETE FROM pgnotifier.failed AS f WHERE f.n = ANY (numbers);
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END $$;

INSERT INTO pgnotifier.installed (version) VALUES (1);
REVOKE ALL ON SCHEMA pgnotifier FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA pgnotifier FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA pgnotifier FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pgnotifier FROM PUBLIC;
