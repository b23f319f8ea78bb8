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

-- ===== Limits: what the log keeps, for how long, and who keeps it =====

-- One row: what holds for the whole log.
CREATE TABLE pgnotifier.limits (
    retention interval NOT NULL DEFAULT '0' CHECK (retention >= '0'), -- entries are kept that long
    quota bigint CHECK (quota > 0) -- once the log has that many bytes, nobody can publish
);
INSERT INTO pgnotifier.limits DEFAULT VALUES;

-- How far a subscription may be behind. What is older is dropped.
CREATE TABLE pgnotifier.max_lag (
    sub int PRIMARY KEY REFERENCES pgnotifier.subscription ON DELETE CASCADE,
    entries bigint CHECK (entries > 0),
    bytes bigint CHECK (bytes > 0),
    age interval CHECK (age > '0')
);

-- What was dropped, until it is reported to the subscription. Of those that nobody has taken, there
-- is one row for each.
CREATE TABLE pgnotifier.gap (
    n bigint PRIMARY KEY DEFAULT nextval('pgnotifier.position_n_seq'), -- which copies repair
    sub int NOT NULL REFERENCES pgnotifier.subscription ON DELETE CASCADE,
    from_id bigint NOT NULL,
    to_id bigint NOT NULL,
    since timestamptz NOT NULL, -- when the first one was published
    until timestamptz NOT NULL, -- and the last one
    entries bigint NOT NULL,
    is_exact boolean NOT NULL, -- or there are at most so many
    taken boolean NOT NULL DEFAULT false
);
CREATE INDEX gap_sub ON pgnotifier.gap (sub);

-- Who reads a subscription. Readers write this once a minute.
CREATE TABLE pgnotifier.reader (
    sub int PRIMARY KEY REFERENCES pgnotifier.subscription ON DELETE CASCADE,
    pid int NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    rate double precision, -- entries a second
    warned_at timestamptz -- when it was last noted that nobody reads it
);

-- Set what holds for the log; null leaves it as it is, and a quota of 0 removes it. Returns whether
-- that has changed anything.
CREATE FUNCTION pgnotifier.configure(retention interval, quota bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    UPDATE pgnotifier.limits AS l SET
        retention = coalesce(retention, l.retention),
        quota = CASE WHEN quota IS NULL THEN l.quota ELSE nullif(quota, 0) END
    WHERE l.retention <> retention
        OR quota IS NOT NULL AND l.quota IS DISTINCT FROM nullif(quota, 0);
    RETURN FOUND;
END $$;

-- While the log is full, new entries go here, where they are refused. Readers and publishers notice
-- nothing of it until then: which slot is the current one is what each publication looks up anyway.
CREATE TABLE pgnotifier.log_full (LIKE pgnotifier.log INCLUDING CONSTRAINTS);

CREATE FUNCTION pgnotifier.refuse() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE 'the durable log is full: it has reached its quota of %',
        (SELECT pg_size_pretty(l.quota) FROM pgnotifier.limits AS l)
        USING ERRCODE = 'configuration_limit_exceeded', HINT = 'Have subscriptions that are behind '
        'read on, forget them, or raise the quota: pgnotifier positions list';
END $$;

CREATE TRIGGER refuse BEFORE INSERT ON pgnotifier.log_full
FOR EACH ROW EXECUTE FUNCTION pgnotifier.refuse();
ALTER TABLE pgnotifier.log ATTACH PARTITION pgnotifier.log_full FOR VALUES IN (8);

-- The subscriptions that have not got all that a slot holds.
CREATE FUNCTION pgnotifier.keepers(slot regclass) RETURNS SETOF int
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    RETURN QUERY EXECUTE format(
        $q$
        SELECT u.sub FROM pgnotifier.subscription AS u
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
        $q$,
        slot
    );
END $$;

-- The slots that hold something. bytes: with indexes, and what is stored out of line.
CREATE FUNCTION pgnotifier.slots() RETURNS TABLE (
    slot int, bytes bigint, is_current boolean, first_id bigint, last_id bigint,
    oldest timestamptz, newest timestamptz, keepers int[]
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
#variable_conflict use_variable
DECLARE
    name regclass;
BEGIN
    FOR number IN 0..7 LOOP
        slot := number;
        name := format('pgnotifier.log_%s', number);
        CONTINUE WHEN pg_relation_size(name) = 0;
        bytes := pg_total_relation_size(name);
        is_current := slot = coalesce(pg_sequence_last_value('pgnotifier.slot'), 0);
        EXECUTE format('SELECT l.id, l.at FROM %s AS l ORDER BY l.xid, l.id LIMIT 1', name)
        INTO first_id, oldest;
        EXECUTE format('SELECT l.id, l.at FROM %s AS l ORDER BY l.xid DESC, l.id DESC LIMIT 1', name)
        INTO last_id, newest;
        keepers := ARRAY(SELECT pgnotifier.keepers(name));
        RETURN NEXT;
    END LOOP;
END $$;

-- The sessions and prepared transactions that keep a slot from being truncated: those that have
-- published into it (transaction, prepared) or read it for long (reader). Times of other roles'
-- sessions are null, unless the caller may see them.
CREATE FUNCTION pgnotifier.lock_holders()
RETURNS TABLE (slot int, kind text, pid int, gid text, since timestamptz)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    WITH held AS MATERIALIZED (
        SELECT l.* FROM pg_locks AS l WHERE l.granted AND (
            l.locktype = 'transactionid'
            OR l.locktype = 'relation' AND l.database = (
                SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()
            )
        )
    )
    SELECT
        s.number,
        CASE
            WHEN h.mode = 'AccessShareLock' THEN 'reader'
            WHEN h.pid IS NULL THEN 'prepared'
            ELSE 'transaction'
        END,
        h.pid, p.gid, coalesce(a.xact_start, p.prepared)
    FROM generate_series(0, 7) AS s (number)
    JOIN held AS h
        ON h.locktype = 'relation'
        AND h.relation = to_regclass(format('pgnotifier.log_%s', s.number))
        AND h.mode IN ('AccessShareLock', 'RowExclusiveLock')
    LEFT JOIN pg_stat_activity AS a ON a.pid = h.pid
    -- A prepared transaction has the same virtual number in all of its locks, among them the one on
    -- its own number.
    LEFT JOIN held AS x
        ON h.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid'
        AND x.virtualtransaction = h.virtualtransaction
    LEFT JOIN pg_prepared_xacts AS p ON p.transaction = x.transactionid
    WHERE h.pid IS DISTINCT FROM pg_backend_pid()
        AND (h.pid IS NOT NULL OR p.gid IS NOT NULL)
        AND (
            h.mode = 'RowExclusiveLock'
            -- Readers of the log are done sooner.
            OR coalesce(a.xact_start < clock_timestamp() - interval '5 s', true)
        )
    ORDER BY s.number, h.pid;
END $$;

-- How far a subscription is behind. Up to a thousand entries are counted; else `behind` counts those
-- of other channels as well. oldest: an entry that it has not got was published then, or later.
CREATE FUNCTION pgnotifier.measure(sub int, OUT behind bigint, OUT oldest timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
SET jit = off AS $$
#variable_conflict use_variable
DECLARE
    place record;
    top xid8;
    after_id bigint;
    ahead record;
BEGIN
    SELECT p.* INTO place FROM pgnotifier.positions AS p WHERE p.sub = sub;
    IF NOT FOUND OR pgnotifier.is_native(sub, place.n) IS NOT TRUE THEN
        RETURN;
    END IF;
    top := pg_snapshot_xmax(place.done);
    after_id := CASE WHEN place.target IS NULL THEN 0 ELSE place.last_id END;
    SELECT
        count(*) AS seen, count(*) FILTER (WHERE e.channel = place.channel) AS ours,
        min(e.id) AS lowest, max(e.at) AS latest,
        min(e.at) FILTER (WHERE e.channel = place.channel) AS oldest
    INTO ahead FROM (
        (
            SELECT l.id, l.at, l.channel FROM pgnotifier.log AS l
            WHERE l.xid = ANY (ARRAY(SELECT pg_snapshot_xip(place.done))) AND l.id > after_id
            LIMIT 1001
        )
        UNION ALL
        (
            SELECT l.id, l.at, l.channel FROM pgnotifier.log AS l
            WHERE l.xid >= top AND l.id > after_id ORDER BY l.xid, l.id LIMIT 1001
        )
    ) AS e;
    IF ahead.seen <= 1000 THEN
        behind := ahead.ours;
        oldest := ahead.oldest;
    ELSE
        behind := pg_sequence_last_value('pgnotifier.log_id_seq') - ahead.lowest + 1;
        oldest := coalesce(ahead.oldest, ahead.latest);
    END IF;
END $$;

-- All subscriptions. pid: the session that reads it, or null. read_at: when it was last known to be
-- read. slots: which ones it keeps.
CREATE FUNCTION pgnotifier.list_positions() RETURNS TABLE (
    sub int, name text, channel text, saved_at timestamptz, lag bigint, oldest timestamptz,
    failed bigint, attempts int, dead bigint, rate double precision, pid int, read_at timestamptz,
    max_entries bigint, max_bytes bigint, max_age interval, dropped bigint
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT
        u.sub, u.name, u.channel, p.at, m.behind, m.oldest, f.failed, f.attempts, f.dead,
        CASE WHEN h.pid IS NOT NULL THEN r.rate END, h.pid, coalesce(r.at, p.at, u.at),
        c.entries, c.bytes, c.age, g.dropped
    FROM pgnotifier.subscription AS u
    LEFT JOIN pgnotifier.positions AS p ON p.sub = u.sub
    LEFT JOIN pgnotifier.reader AS r ON r.sub = u.sub
    LEFT JOIN pgnotifier.max_lag AS c ON c.sub = u.sub
    CROSS JOIN LATERAL pgnotifier.measure(u.sub) AS m
    CROSS JOIN LATERAL (
        SELECT
            count(*) FILTER (WHERE NOT f.dead) AS failed, count(*) FILTER (WHERE f.dead) AS dead,
            coalesce(max(f.attempts) FILTER (WHERE NOT f.dead), 0) AS attempts
        FROM pgnotifier.failed AS f WHERE f.sub = u.sub
    ) AS f
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(g.entries), 0)::bigint AS dropped FROM pgnotifier.gap AS g
        WHERE g.sub = u.sub
    ) AS g
    LEFT JOIN LATERAL (
        SELECT a.pid FROM pg_stat_activity AS a
        LEFT JOIN pg_locks AS l ON l.pid = a.pid AND l.locktype = 'advisory'
            AND l.classid = 1885957742 AND l.objid = u.sub AND l.objsubid = 2 AND l.granted
            AND a.datname = current_database()
            AND has_function_privilege(a.usesysid, 'pgnotifier.hold(int)', 'EXECUTE')
        WHERE l.pid IS NOT NULL
            OR a.pid = r.pid AND a.datname = current_database()
                AND r.at > clock_timestamp() - interval '3 min'
        ORDER BY l.pid IS NULL LIMIT 1
    ) AS h ON true
    ORDER BY u.name, u.channel;
END $$;

-- A session reads these subscriptions, each at a rate.
CREATE FUNCTION pgnotifier.note_reader(subs int[], rates double precision[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO pgnotifier.reader AS r (sub, pid, rate)
    SELECT u.sub, pg_backend_pid(), given.rate
    FROM unnest(subs, rates) AS given (sub, rate)
    JOIN pgnotifier.subscription AS u ON u.sub = given.sub
    ORDER BY u.sub FOR KEY SHARE OF u
    ON CONFLICT (sub) DO UPDATE SET
        pid = excluded.pid, at = excluded.at, rate = excluded.rate, warned_at = NULL;
END $$;

-- The subscriptions that nobody has read for long although they keep several slots; the same one once
-- a day, whoever asks.
CREATE FUNCTION pgnotifier.find_unread(unread_for interval DEFAULT '1 hour')
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
        ON CONFLICT (sub) DO UPDATE SET warned_at = excluded.warned_at
        WHERE r.warned_at IS NULL OR r.warned_at < clock_timestamp() - interval '1 day'
        RETURNING r.sub
    )
    SELECT u.name, u.channel, u.read_at, u.slots, u.bytes
    FROM unread AS u JOIN noted AS n ON n.sub = u.sub;
END $$;

CREATE FUNCTION pgnotifier.limit_lag(sub int, entries bigint, bytes bigint, age interval) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    IF coalesce(entries::text, bytes::text, age::text) IS NULL THEN
        DELETE FROM pgnotifier.max_lag AS m WHERE m.sub = sub;
        RETURN;
    END IF;
    INSERT INTO pgnotifier.max_lag AS m (sub, entries, bytes, age)
    SELECT u.sub, entries, bytes, age FROM pgnotifier.subscription AS u WHERE u.sub = sub
    FOR KEY SHARE
    ON CONFLICT ON CONSTRAINT max_lag_pkey DO UPDATE
    SET entries = excluded.entries, bytes = excluded.bytes, age = excluded.age
    WHERE (m.entries, m.bytes, m.age)
        IS DISTINCT FROM (excluded.entries, excluded.bytes, excluded.age);
END $$;

-- In the order of the index, find the place where entries with this id, or of this time, begin. Of
-- the transactions since `low`, `before` is the last one whose first entry comes before that place.
-- id is the first one after it. Ids and times are nearly in the order of transactions.
CREATE FUNCTION pgnotifier.find_boundary(
    low xid8, from_id bigint, from_time timestamptz, OUT before xid8, OUT id bigint
)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
#variable_conflict use_variable
DECLARE
    lo bigint := low::text;
    hi bigint := pg_snapshot_xmax(pg_current_snapshot())::text;
    middle bigint;
    probe record;
BEGIN
    WHILE hi - lo > 1 LOOP
        middle := lo + (hi - lo) / 2;
        SELECT l.id, l.at, l.xid INTO probe FROM pgnotifier.log AS l
        WHERE l.xid >= middle::text::xid8 ORDER BY l.xid, l.id LIMIT 1;
        IF probe.id >= from_id OR probe.at >= from_time OR probe.id IS NULL THEN
            hi := middle;
            id := coalesce(probe.id, id);
        ELSE
            lo := probe.xid::text;
        END IF;
    END LOOP;
    before := lo::text;
    IF from_time IS NOT NULL THEN -- it may be in the middle of a transaction
        SELECT l.id INTO id FROM pgnotifier.log AS l
        WHERE l.xid >= before AND l.at >= from_time ORDER BY l.xid, l.id LIMIT 1;
    END IF;
END $$;

-- The id from which on the log has about that many bytes; 0 if it has no more.
CREATE FUNCTION pgnotifier.find_bytes(bytes bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    one record;
    left_over double precision := bytes;
BEGIN
    FOR one IN SELECT * FROM pgnotifier.slots() AS s ORDER BY s.last_id DESC LOOP
        IF one.bytes > left_over THEN
            RETURN one.last_id + 1
                - floor((one.last_id - one.first_id + 1) * (left_over / one.bytes))::bigint;
        END IF;
        left_over := left_over - one.bytes;
    END LOOP;
    RETURN 0;
END $$;

-- Move a subscription to where it isn't further behind than it may be, and note what it has missed.
-- Transactions that are open now are left out of that: what they publish is delivered.
CREATE FUNCTION pgnotifier.drop_behind(sub int) RETURNS boolean
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
    here pg_snapshot;
    open xid8[];
    done pg_snapshot;
    missed record;
BEGIN
    SELECT m.* INTO cap FROM pgnotifier.max_lag AS m WHERE m.sub = sub;
    SELECT p.* INTO place FROM pgnotifier.positions AS p WHERE p.sub = sub;
    IF cap.sub IS NULL OR place.sub IS NULL OR pgnotifier.is_native(sub, place.n) IS NOT TRUE THEN
        RETURN false;
    END IF;
    top := pg_snapshot_xmax(place.done);
    after_id := CASE WHEN place.target IS NULL THEN 0 ELSE place.last_id END;
    late := ARRAY( -- what was open at done, and has published
        SELECT one FROM pg_snapshot_xip(place.done) AS one
        WHERE EXISTS (SELECT FROM pgnotifier.log AS l WHERE l.xid = one AND l.id > after_id)
    );
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
    -- Whoever saves the position now goes on with that. This one is looked at again soon.
    PERFORM FROM pgnotifier.subscription AS u WHERE u.sub = sub FOR UPDATE SKIP LOCKED;
    IF NOT FOUND OR EXISTS (
        SELECT FROM pgnotifier.position AS p WHERE p.sub = sub AND p.n > place.n
    ) THEN
        RETURN false;
    END IF;
    before := (
        (pgnotifier.find_boundary(first.xid, from_id, NULL)).before::text::bigint + 1
    )::text::xid8;
    here := pgnotifier.snapshot();
    -- Dropped are the transactions before this one, and of the window that follows, ids below
    -- from_id. Of the former are left out those that are open still, and those that have published
    -- lately.
    open := ARRAY(
        SELECT one FROM pg_snapshot_xip(here) AS one WHERE one < before
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
        WHERE (l.xid >= top AND l.xid < before OR l.xid = ANY (late))
            AND l.id < from_id AND l.id > after_id
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
    IF pg_snapshot_xmax(place.target) > before THEN
        PERFORM pgnotifier.save(
            sub, done, place.target, greatest(place.last_id, from_id - 1)
        );
    ELSE
        PERFORM pgnotifier.save(sub, done, pgnotifier.next_target(done), from_id - 1);
    END IF;
    RETURN true;
END $$;

CREATE FUNCTION pgnotifier.note_gap(
    sub int, from_id bigint, to_id bigint, since timestamptz, until timestamptz, entries bigint,
    is_exact boolean
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    IF entries = 0 THEN
        RETURN;
    END IF;
    UPDATE pgnotifier.gap AS g SET
        from_id = least(g.from_id, from_id), to_id = greatest(g.to_id, to_id),
        since = least(g.since, since), until = greatest(g.until, until),
        entries = g.entries + entries, is_exact = g.is_exact AND is_exact
    WHERE g.sub = sub AND NOT g.taken;
    IF NOT FOUND THEN
        INSERT INTO pgnotifier.gap (sub, from_id, to_id, since, until, entries, is_exact)
        VALUES (sub, from_id, to_id, since, until, entries, is_exact);
    END IF;
END $$;

-- What was dropped for a subscription. It remains until drop_gaps() is called.
CREATE FUNCTION pgnotifier.take_gaps(sub int) RETURNS TABLE (
    n bigint, from_id bigint, to_id bigint, since timestamptz, until timestamptz, entries bigint,
    is_exact boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    -- Whoever drops something has this lock.
    PERFORM FROM pgnotifier.subscription AS u WHERE u.sub = take_gaps.sub FOR UPDATE;
    RETURN QUERY
    UPDATE pgnotifier.gap AS g SET taken = true WHERE g.sub = take_gaps.sub
    RETURNING g.n, g.from_id, g.to_id, g.since, g.until, g.entries, g.is_exact;
END $$;

CREATE FUNCTION pgnotifier.drop_gaps(numbers bigint[]) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed int;
BEGIN
    DELETE FROM pgnotifier.gap AS g WHERE g.n = ANY (numbers);
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END $$;

CREATE OR REPLACE FUNCTION pgnotifier.is_passed(slot regclass, retention interval) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    passed boolean;
BEGIN
    EXECUTE format(
        $q$
        SELECT NOT EXISTS (SELECT FROM pgnotifier.keepers($1)) AND coalesce(
            (
                SELECT l.at < clock_timestamp() - $2 FROM %s AS l
                ORDER BY l.xid DESC, l.id DESC LIMIT 1
            ),
            true
        )
        $q$,
        slot
    ) INTO passed USING slot, retention;
    RETURN passed;
END $$;

-- Refuse publications while the log has as many bytes as it may, and only then.
CREATE FUNCTION pgnotifier.apply_quota() RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_full boolean;
BEGIN
    SELECT l.quota <= (
        SELECT sum(pg_total_relation_size(format('pgnotifier.log_%s', number)::regclass))
        FROM generate_series(0, 7) AS number
    ) INTO is_full FROM pgnotifier.limits AS l;
    IF is_full THEN
        PERFORM setval('pgnotifier.slot', 8);
    ELSIF pg_sequence_last_value('pgnotifier.slot') = 8 THEN
        -- Go on with an empty slot, or else with the latest.
        PERFORM setval('pgnotifier.slot', best.number) FROM (
            SELECT number FROM generate_series(0, 7) AS number
            LEFT JOIN pgnotifier.slots() AS s ON s.slot = number
            ORDER BY s.last_id DESC LIMIT 1 -- nulls come first
        ) AS best;
    END IF;
    RETURN coalesce(is_full, false);
END $$;

-- As in version 1. Publishers call it for each tick, so it looks at the quota as well: readers may
-- all be down.
CREATE OR REPLACE FUNCTION pgnotifier.snapshot() RETURNS pg_snapshot
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seen pg_snapshot := pg_current_snapshot();
    own xid8 := pg_current_xact_id_if_assigned();
BEGIN
    IF EXISTS (SELECT FROM pgnotifier.limits AS l WHERE l.quota IS NOT NULL) THEN
        PERFORM pgnotifier.apply_quota();
    END IF;
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

-- As in version 1, but drop first what subscriptions may not keep, keep what is younger than the
-- log's own retention, and apply the quota. A slot may get as large, and as old, as an eighth of
-- the log: otherwise, if much is kept, seven small slots and a huge one would be in use.
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
    PERFORM pgnotifier.drop_behind(m.sub) FROM pgnotifier.max_lag AS m;
    retention := greatest(retention, (SELECT max(l.retention) FROM pgnotifier.limits AS l));
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
    IF NOT pgnotifier.apply_quota() AND current_slot < 8 THEN
        FOR number IN 0..7 LOOP
            name := format('pgnotifier.log_%s', number);
            CONTINUE WHEN pg_relation_size(name) = 0;
            all_bytes := all_bytes + pg_table_size(name);
            EXECUTE format('SELECT l.at FROM %s AS l ORDER BY l.xid, l.id LIMIT 1', name) INTO one;
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
    DELETE FROM pgnotifier.position AS p USING pgnotifier.positions AS newest
    WHERE p.sub = newest.sub AND p.n < newest.n - 1000;
END $$;

-- ===== What a reader does first, in one step =====

-- Hold a subscription, find its window and read its first entries, as hold(), take() and read() do:
-- each by a query of its own would take three times as long, while somebody waits for the entry.
-- The entries come first, and the window last. pid: of the session; if it is another one, a pooler
-- is in between. If there is nothing to read at the present, others may have the subscription at
-- once, unless it is to be kept.
-- state: as of take(); or 'elsewhere' (another reader holds it), or 'pooled'.
CREATE FUNCTION pgnotifier.advance(
    pid int, sub int, known bigint, ahead pg_snapshot, lim int, keep boolean
) RETURNS TABLE (
    state text, channel text, n bigint, done pg_snapshot, target pg_snapshot, last_id bigint,
    is_now boolean, id_hi bigint, newest bigint, is_held boolean,
    id bigint, at timestamptz, key bytea, payload bytea, is_rest boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    place record;
BEGIN
    state := CASE
        WHEN pg_backend_pid() <> pid THEN 'pooled'
        WHEN NOT pgnotifier.hold(sub) THEN 'elsewhere'
    END;
    IF state IS NOT NULL THEN
        RETURN NEXT;
        RETURN;
    END IF;
    is_held := true;
    -- This statement and the next one have snapshots of their own, each newer than the one before.
    SELECT * INTO place FROM pgnotifier.take(sub, known, ahead);
    IF place.state = 'taken' THEN
        RETURN QUERY
        SELECT
            NULL::text, NULL::text, NULL::bigint, NULL::pg_snapshot, NULL::pg_snapshot,
            NULL::bigint, NULL::boolean, NULL::bigint, NULL::bigint, NULL::boolean,
            e.id, e.at, e.key, e.payload, e.is_rest
        FROM pgnotifier.read(place.channel, place.done, place.target, place.last_id, lim) AS e;
        IF NOT FOUND AND NOT keep AND place.is_now AND place.n = known THEN
            PERFORM pg_advisory_unlock(1885957742, sub);
            is_held := false;
        END IF;
    END IF;
    state := place.state;
    channel := place.channel;
    n := place.n;
    done := place.done;
    target := place.target;
    last_id := place.last_id;
    is_now := place.is_now;
    id_hi := place.id_hi;
    newest := place.newest;
    RETURN NEXT;
END $$;

-- ===== The rights of what is new =====

REVOKE ALL ON
    pgnotifier.gap, pgnotifier.limits, pgnotifier.log_full,
    pgnotifier.max_lag, pgnotifier.reader
FROM PUBLIC;
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
-- A role that has the rights of a listener keeps them.
DO $$
DECLARE
    granted text;
BEGIN
    FOR granted IN
        SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_proc AS p CROSS JOIN aclexplode(p.proacl) AS a
        WHERE p.oid = 'pgnotifier.hold(int)'::regprocedure AND a.grantee <> p.proowner
    LOOP
        EXECUTE format(
            'GRANT SELECT ON pgnotifier.gap, pgnotifier.limits, pgnotifier.max_lag,'
            ' pgnotifier.reader, pgnotifier.slot TO %1$s;'
            ' GRANT EXECUTE ON FUNCTION'
            ' pgnotifier.advance(int, int, bigint, pg_snapshot, int, boolean),'
            ' pgnotifier.drop_gaps(bigint[]),'
            ' pgnotifier.find_unread(interval),'
            ' pgnotifier.limit_lag(int, bigint, bigint, interval),'
            ' pgnotifier.list_positions(), pgnotifier.lock_holders(), pgnotifier.measure(int),'
            ' pgnotifier.note_reader(int[], double precision[]), pgnotifier.slots(),'
            ' pgnotifier.take_gaps(int) TO %1$s',
            granted
        );
    END LOOP;
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
