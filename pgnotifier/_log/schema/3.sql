-- ===== What a reader does first, in one step =====

-- As in version 2, but the usual case, nothing new or a few entries, takes two statements, and calls
-- no other function: each call takes as long as a statement. No row is locked, so that a look needs
-- no transaction number and writes nothing. Whoever saves a position sees whether it was moved.
CREATE OR REPLACE FUNCTION pgnotifier.advance(
    pid int, sub int, known bigint, ahead pg_snapshot, lim int, keep boolean
) RETURNS TABLE (
    state text, channel text, n bigint, done pg_snapshot, target pg_snapshot, last_id bigint,
    is_now boolean, id_hi bigint, newest bigint, is_held boolean,
    id bigint, at timestamptz, key bytea, payload bytea, is_rest boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
SET jit = off AS $$
#variable_conflict use_variable
DECLARE
    few CONSTANT int := 500; -- entries, of all channels
    max_bytes CONSTANT int := 16777216;
    place record;
    ends_now boolean;
    lo xid8;
    hi xid8;
    is_long boolean;
    entry record;
    got int := 0;
    bytes bigint := 0;
    tick pg_snapshot;
BEGIN
    -- Each statement below needs a snapshot of its own, newer than the lock.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE 'pgnotifier.advance() needs READ COMMITTED'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    state := CASE
        WHEN pg_backend_pid() <> pid THEN 'pooled'
        WHEN pg_try_advisory_lock(1885957742, sub) THEN NULL
        WHEN NOT pgnotifier.hold(sub) THEN 'elsewhere'
    END;
    IF state IS NOT NULL THEN
        RETURN NEXT;
        RETURN;
    END IF;
    SELECT
        u.channel, p.n, p.done, p.target, p.last_id, p.id_hi,
        -- as is_native() and is_here() do
        p.xmin::text::bigint = p.mark::text::bigint % 4294967296
            AND pg_snapshot_xmax(p.done) <= pg_snapshot_xmax(pg_current_snapshot())
            AND 2 = (
                SELECT count(*)
                FROM pgnotifier.origin AS one JOIN pgnotifier.origin AS two
                ON two.n = one.n + 1 AND two.before = one.xmin::text::bigint
            ) AS is_native
    INTO place
    FROM pgnotifier.subscription AS u
    LEFT JOIN LATERAL (
        SELECT q.*, q.xmin FROM pgnotifier.position AS q
        WHERE q.sub = u.sub ORDER BY q.n DESC LIMIT 1
    ) AS p ON true
    WHERE u.sub = sub;
    IF place.is_native IS NOT TRUE THEN
        state := CASE WHEN place.channel IS NULL THEN 'gone' ELSE 'foreign' END;
        channel := place.channel;
        n := place.n;
        is_held := true;
        RETURN NEXT;
        RETURN;
    END IF;
    IF place.n = known THEN
        place.done := ahead;
        place.target := NULL;
        place.last_id := 0;
    END IF;
    ends_now := place.target IS NULL;
    IF ends_now THEN
        place.target := CASE
            WHEN pg_current_xact_id_if_assigned() IS NULL THEN pg_current_snapshot()
            ELSE pgnotifier.snapshot()
        END;
    END IF;
    -- What has ended since is in one range, which begins at the first transaction that was open in
    -- done; but see batch() for those that had been open for long.
    lo := pg_snapshot_xmin(place.done);
    hi := pg_snapshot_xmax(place.target);
    IF pg_snapshot_xmax(place.done)::text::bigint - lo::text::bigint > 1000 THEN
        SELECT
            coalesce(min(x.xid) FILTER (WHERE x.is_recent), pg_snapshot_xmax(place.done)),
            bool_or(NOT x.is_recent AND pg_visible_in_snapshot(x.xid, place.target))
        INTO lo, is_long
        FROM (
            SELECT x.xid, x.xid::text::bigint >= pg_snapshot_xmax(place.done)::text::bigint - 1000
            FROM pg_snapshot_xip(place.done) AS x (xid)
        ) AS x (xid, is_recent);
    END IF;
    is_long := coalesce(is_long, false) OR place.last_id > 0; -- it was too much for one batch
    IF NOT is_long AND lo < hi THEN
        FOR entry IN
            SELECT
                e.*, count(*) OVER () > few AS is_long,
                count(*) FILTER (WHERE e.is_ours) OVER () <= lim
                    AND sum(octet_length(e.payload)) FILTER (WHERE e.is_ours) OVER () < max_bytes
                    AS is_rest
            FROM (
                SELECT
                    l.id, l.at, l.key::text, l.payload::text,
                    l.channel = place.channel AND pg_visible_in_snapshot(l.xid, place.target)
                        AND NOT pg_visible_in_snapshot(l.xid, place.done) AS is_ours
                FROM pgnotifier.log AS l
                WHERE l.xid >= lo AND l.xid < hi AND l.id > place.last_id
                ORDER BY l.xid, l.id LIMIT few + 1
            ) AS e
            ORDER BY e.id
        LOOP
            is_long := entry.is_long;
            EXIT WHEN is_long OR got = lim OR bytes >= max_bytes;
            CONTINUE WHEN NOT entry.is_ours;
            got := got + 1;
            bytes := bytes + octet_length(entry.payload);
            id := entry.id;
            at := entry.at;
            key := convert_to(entry.key, getdatabaseencoding());
            payload := convert_to(entry.payload, getdatabaseencoding());
            is_rest := entry.is_rest;
            RETURN NEXT;
        END LOOP;
    END IF;
    IF is_long THEN -- many: as take() and read() do
        IF ends_now THEN
            tick := pgnotifier.next_tick(place.done);
            ends_now := tick IS NULL;
            place.target := coalesce(tick, place.target);
        END IF;
        RETURN QUERY
        SELECT
            NULL::text, NULL::text, NULL::bigint, NULL::pg_snapshot, NULL::pg_snapshot,
            NULL::bigint, NULL::boolean, NULL::bigint, NULL::bigint, NULL::boolean,
            e.id, e.at, e.key, e.payload, e.is_rest
        FROM pgnotifier.read(
            place.channel, place.done, place.target, place.last_id, lim, max_bytes
        ) AS e;
        GET DIAGNOSTICS got = ROW_COUNT;
    END IF;
    state := 'taken';
    channel := place.channel;
    n := place.n;
    done := place.done;
    target := place.target;
    last_id := place.last_id;
    is_now := ends_now;
    id_hi := place.id_hi;
    newest := coalesce(pg_sequence_last_value('pgnotifier.log_id_seq'), 0);
    is_held := true;
    IF got = 0 AND NOT keep AND is_now AND n = known THEN
        PERFORM pg_advisory_unlock(1885957742, sub);
        is_held := false;
    END IF;
    id := NULL;
    at := NULL;
    key := NULL;
    payload := NULL;
    is_rest := NULL;
    RETURN NEXT;
END $$;

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
