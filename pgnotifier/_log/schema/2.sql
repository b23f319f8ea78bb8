-- From version 1 to 2. No statement here needs a lock that waits for publishers, for readers or for
-- pg_dump, or that holds them up: tables that are in use get no columns, and no other defaults.

-- === Limits: what the log keeps, for how long, and who keeps it ==================================

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

REVOKE ALL ON
    pgnotifier.gap, pgnotifier.limits, pgnotifier.log_full,
    pgnotifier.max_lag, pgnotifier.reader
FROM PUBLIC;
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
            ' GRANT EXECUTE ON FUNCTION pgnotifier.drop_gaps(bigint[]),'
            ' pgnotifier.find_unread(interval),'
            ' pgnotifier.limit_lag(int, bigint, bigint, interval),'
            ' pgnotifier.list_positions(), pgnotifier.lock_holders(), pgnotifier.measure(int),'
            ' pgnotifier.note_reader(int[], double precision[]), pgnotifier.slots(),'
            ' pgnotifier.take_gaps(int) TO %1$s',
            granted
        );
    END LOOP;
END $$;

-- === End of limits ===============================================================================

UPDATE pgnotifier.installed SET version = 2, at = clock_timestamp();
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pgnotifier FROM PUBLIC;
