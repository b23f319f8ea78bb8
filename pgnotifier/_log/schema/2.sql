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

-- ===== The version =====

UPDATE pgnotifier.installed SET version = 2, at = clock_timestamp();
