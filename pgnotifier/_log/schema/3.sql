-- ===== An earlier form of version 1 =====

-- It read keys and payloads as text, and version 2 has left that as it was. Those who have the later
-- form keep these functions as they are.
DROP FUNCTION IF EXISTS
    pgnotifier.due(int, int),
    pgnotifier.fail(
        int, bigint, timestamptz, text, text, text, text, text, double precision, boolean
    );

-- As many of these entries as have max_bytes of payloads together, and at least one: a thousand may
-- have 64 GiB. is_rest: whether there are no more in the window. Keys and payloads are bytes in the
-- database's encoding: a character without an equivalent in UTF-8 would end each try to read it.
CREATE OR REPLACE FUNCTION pgnotifier.read(
    channel text, done pg_snapshot, target pg_snapshot, last_id bigint, lim int,
    max_bytes bigint DEFAULT 16777216
) RETURNS TABLE (id bigint, at timestamptz, key bytea, payload bytea, is_rest boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT
        w.id, w.at, convert_to(w.key, getdatabaseencoding()),
        convert_to(w.payload, getdatabaseencoding()), w.found < lim AND w.most < max_bytes
    FROM (
        SELECT b.*, count(*) OVER () AS found, max(b.before) OVER () AS most
        FROM (
            SELECT e.*,
                sum(octet_length(e.payload)) OVER (ORDER BY e.id) - octet_length(e.payload)
                    AS before
            FROM pgnotifier.batch(channel, done, target, last_id, lim) AS e
        ) AS b
    ) AS w
    WHERE w.before < max_bytes ORDER BY w.id;
END $$;

-- Keep an entry that has failed, to be tried again after some seconds unless it is dead.
CREATE OR REPLACE FUNCTION pgnotifier.fail(
    sub int, id bigint, at timestamptz, channel text, key bytea, payload bytea,
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
        sub, id, at, channel, convert_from(key, getdatabaseencoding()),
        convert_from(payload, getdatabaseencoding()), 1,
        clock_timestamp() + make_interval(secs => retry_in), error, traceback, dead
    )
    RETURNING f.n INTO made;
    RETURN made;
END $$;

-- The entries of a subscription that are to be tried again now, locked: up to lim of them, with up
-- to max_bytes of payloads before the last one.
CREATE OR REPLACE FUNCTION pgnotifier.due(sub int, lim int, max_bytes bigint DEFAULT 16777216)
RETURNS TABLE (
    n bigint, id bigint, at timestamptz, key bytea, payload bytea, attempts int
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH locked AS MATERIALIZED (
        SELECT f.* FROM pgnotifier.failed AS f
        WHERE f.sub = due.sub AND NOT f.dead AND f.retry_at <= clock_timestamp()
        ORDER BY f.retry_at, f.n LIMIT lim FOR UPDATE SKIP LOCKED
    )
    SELECT
        l.n, l.id, l.at, convert_to(l.key, getdatabaseencoding()),
        convert_to(l.payload, getdatabaseencoding()), l.attempts
    FROM (
        SELECT f.*,
            sum(octet_length(f.payload)) OVER (ORDER BY f.retry_at, f.n)
                - octet_length(f.payload) AS before
        FROM locked AS f
    ) AS l
    WHERE l.before < max_bytes ORDER BY l.retry_at, l.n;
END $$;

-- What is new here gets its rights: those who may execute hold() are listeners.
DO $$
DECLARE
    made regprocedure;
    granted text;
BEGIN
    FOR made IN
        SELECT p.oid FROM pg_proc AS p
        WHERE p.pronamespace = 'pgnotifier'::regnamespace AND p.proacl IS NULL
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', made);
        FOR granted IN
            SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
            FROM pg_proc AS p CROSS JOIN aclexplode(p.proacl) AS a
            WHERE p.oid = 'pgnotifier.hold(int)'::regprocedure AND a.grantee <> p.proowner
        LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', made, granted);
        END LOOP;
    END LOOP;
END $$;

-- ===== What a reader does first, in one step =====

-- Move a position on, unless it is another one by now: then null is returned. What take() locks is
-- locked here, too, and each statement has a snapshot of its own, newer than the lock. Whoever makes
-- a row that refers to the subscription isn't in the way.
CREATE FUNCTION pgnotifier.move(
    sub int, known bigint, done pg_snapshot, target pg_snapshot, last_id bigint
) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    newest bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE 'pgnotifier.move() needs READ COMMITTED' USING ERRCODE = 'invalid_transaction_state';
    END IF;
    PERFORM FROM pgnotifier.subscription AS u WHERE u.sub = sub FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT p.n INTO newest
    FROM pgnotifier.position AS p WHERE p.sub = sub ORDER BY p.n DESC LIMIT 1;
    IF newest IS DISTINCT FROM known OR pgnotifier.is_native(sub, known) IS NOT TRUE THEN
        RETURN NULL;
    END IF;
    RETURN pgnotifier.save(sub, done, target, last_id);
END $$;

-- As in version 2, but the usual case, nothing new or a few entries, takes two statements, and calls
-- no other function: each call takes as long as a statement. No row is locked, so that a look needs
-- no transaction number and writes nothing. Whoever saves a position sees whether it was moved.
--
-- Entries that are under way can be passed over: if the position is still the one that is known,
-- reading begins at (ahead, ahead_target, ahead_id). And the position can be moved in the same step,
-- to (settled, settled_target, settled_id), after reading, so that nothing is read by a transaction
-- with a number. If it is another one by then, the state is 'moved'. is_locked: the session has the
-- lock already. waits: whether the end of this transaction waits for the disk.
DROP FUNCTION pgnotifier.advance(int, int, bigint, pg_snapshot, int, boolean);
CREATE FUNCTION pgnotifier.advance(
    pid int, sub int, known bigint, ahead pg_snapshot, lim int, keep boolean,
    ahead_target pg_snapshot DEFAULT NULL, ahead_id bigint DEFAULT 0,
    is_locked boolean DEFAULT false, settled pg_snapshot DEFAULT NULL,
    settled_target pg_snapshot DEFAULT NULL, settled_id bigint DEFAULT 0,
    waits boolean DEFAULT false
) RETURNS TABLE (
    state text, channel text, n bigint, done pg_snapshot, target pg_snapshot, last_id bigint,
    is_now boolean, id_hi bigint, newest bigint, is_held boolean,
    id bigint, at timestamptz, key bytea, payload bytea, is_rest boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
SET jit = off SET work_mem = '32MB' AS $$
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
    late xid8[];
    is_sparse boolean;
    has_all boolean := true;
BEGIN
    -- Each statement below needs a snapshot of its own, newer than the lock.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE 'pgnotifier.advance() needs READ COMMITTED'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    state := CASE
        WHEN pg_backend_pid() <> pid THEN 'pooled'
        WHEN is_locked OR pg_try_advisory_lock(1885957742, sub) THEN NULL
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
    IF place.n = known AND ahead IS NOT NULL THEN
        place.done := ahead;
        place.target := ahead_target;
        place.last_id := ahead_id;
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
        lo := coalesce(
            (
                SELECT one FROM pg_snapshot_xip(place.done) AS one
                WHERE one::text::bigint >= pg_snapshot_xmax(place.done)::text::bigint - 1000
                ORDER BY one LIMIT 1
            ),
            pg_snapshot_xmax(place.done)
        );
        is_long := EXISTS (
            SELECT FROM pg_snapshot_xip(place.done) AS one
            WHERE one::text::bigint < pg_snapshot_xmax(place.done)::text::bigint - 1000
                AND pg_visible_in_snapshot(one, place.target)
        );
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
            has_all := is_rest;
            RETURN NEXT;
        END LOOP;
    END IF;
    IF is_long THEN -- many: as take() and read() do, but each entry is copied once, not four times
        IF ends_now THEN
            tick := pgnotifier.next_tick(place.done);
            ends_now := tick IS NULL;
            place.target := coalesce(tick, place.target);
            hi := pg_snapshot_xmax(place.target);
        END IF;
        late := ARRAY(
            SELECT one FROM pg_snapshot_xip(place.done) AS one
            WHERE one < lo AND pg_visible_in_snapshot(one, place.target)
        );
        -- See batch(): such a window isn't read as one range.
        is_sparse := hi::text::bigint - pg_snapshot_xmax(place.done)::text::bigint <= 50 OR EXISTS (
            SELECT FROM pgnotifier.log AS l WHERE l.xid >= lo AND l.xid < hi OFFSET 20000
        );
        is_rest := false; -- that isn't known yet
        FOR entry IN
            WITH RECURSIVE x (xid) AS ( -- each transaction of the window
                (
                    SELECT l.xid FROM pgnotifier.log AS l
                    WHERE is_sparse AND l.xid >= lo AND l.xid < hi ORDER BY l.xid, l.id LIMIT 1
                )
                UNION ALL
                SELECT (
                    SELECT l.xid FROM pgnotifier.log AS l
                    WHERE l.xid > x.xid AND l.xid < hi ORDER BY l.xid, l.id LIMIT 1
                ) FROM x WHERE x.xid IS NOT NULL
            )
            SELECT w.id, w.at, w.key, w.payload FROM (
                SELECT l.id, l.at, l.key::text, l.payload::text FROM pgnotifier.log AS l
                WHERE NOT is_sparse AND l.xid >= lo AND l.xid < hi
                    AND l.id > place.last_id AND l.channel = place.channel
                    AND pg_visible_in_snapshot(l.xid, place.target)
                    AND NOT pg_visible_in_snapshot(l.xid, place.done)
                UNION ALL
                SELECT o.* FROM (
                    SELECT x.xid FROM x
                    WHERE pg_visible_in_snapshot(x.xid, place.target)
                        AND NOT pg_visible_in_snapshot(x.xid, place.done)
                    UNION ALL SELECT unnest(late)
                ) AS y CROSS JOIN LATERAL (
                    SELECT l.id, l.at, l.key::text, l.payload::text FROM pgnotifier.log AS l
                    WHERE l.xid = y.xid AND l.id > place.last_id AND l.channel = place.channel
                    ORDER BY l.xid, l.id LIMIT lim
                ) AS o
            ) AS w
            ORDER BY w.id LIMIT lim
        LOOP
            EXIT WHEN bytes >= max_bytes;
            got := got + 1;
            bytes := bytes + octet_length(entry.payload);
            id := entry.id;
            at := entry.at;
            key := convert_to(entry.key, getdatabaseencoding());
            payload := convert_to(entry.payload, getdatabaseencoding());
            RETURN NEXT;
        END LOOP;
        has_all := got < lim AND bytes < max_bytes;
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
    IF settled IS NULL AND got = 0 AND NOT keep AND is_now AND n = known THEN
        PERFORM pg_advisory_unlock(1885957742, sub);
        is_held := false;
    ELSIF settled IS NOT NULL THEN -- others can see it once this transaction has ended
        n := pgnotifier.move(sub, known, settled, settled_target, settled_id);
        IF n IS NULL THEN
            state := 'moved';
        ELSIF waits THEN
            PERFORM set_config('synchronous_commit', 'local', true);
        END IF;
    END IF;
    id := NULL;
    at := NULL;
    key := NULL;
    payload := NULL;
    is_rest := has_all;
    RETURN NEXT;
END $$;

-- A role that has the rights of a listener keeps them.
DO $$
DECLARE
    made regprocedure;
    granted text;
BEGIN
    FOR made IN
        SELECT p.oid FROM pg_proc AS p
        WHERE p.pronamespace = 'pgnotifier'::regnamespace AND p.proname IN ('advance', 'move')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', made);
        FOR granted IN
            SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
            FROM pg_proc AS p CROSS JOIN aclexplode(p.proacl) AS a
            WHERE p.oid = 'pgnotifier.hold(int)'::regprocedure AND a.grantee <> p.proowner
        LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', made, granted);
        END LOOP;
    END LOOP;
END $$;

-- ===== Tasks: who may enqueue them, and how SQL does =====

-- Who publishes on a channel that begins with "pgnotifier:" can have workers run tasks: such
-- channels are the outboxes, and reserved for roles that may execute this function.
CREATE FUNCTION pgnotifier.may_enqueue() RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN true;
END $$;

-- What a table holds as a value of this domain isn't checked again when it is published. So nobody
-- else may make such a table, and none may be left from before.
DO $$
DECLARE
    given record;
    other text;
BEGIN
    FOR given IN
        SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
        FROM pg_type AS t
        CROSS JOIN aclexplode(coalesce(t.typacl, acldefault('T', t.typowner))) AS a
        WHERE t.oid = 'pgnotifier.entry_channel'::regtype AND a.grantee <> t.typowner
    LOOP
        EXECUTE format('REVOKE ALL ON DOMAIN pgnotifier.entry_channel FROM %s', given.grantee);
    END LOOP;
    SELECT pg_describe_object(d.classid, d.objid, 0) INTO other
    FROM pg_depend AS d
    JOIN pg_type AS t ON d.refclassid = 'pg_type'::regclass AND d.refobjid = t.oid
    LEFT JOIN pg_class AS c ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
    LEFT JOIN pg_type AS made ON d.classid = 'pg_type'::regclass AND d.objid = made.oid
    WHERE 'pgnotifier.entry_channel'::regtype IN (t.oid, t.typelem)
        AND (
            c.relkind <> 'v' AND c.relnamespace <> 'pgnotifier'::regnamespace
            OR made.typtype IN ('d', 'r')
        )
    LIMIT 1;
    IF FOUND THEN
        RAISE '% uses pgnotifier.entry_channel, which is for the log alone: drop it first', other
            USING ERRCODE = 'dependent_objects_still_exist';
    END IF;
END $$;

-- NOT VALID: what is in the log isn't read, so nobody waits. The right is that of current_user: in
-- a function with SECURITY DEFINER, of its owner.
ALTER DOMAIN pgnotifier.entry_channel ADD CONSTRAINT channel_reserved CHECK (
    NOT starts_with(VALUE, 'pgnotifier:')
    OR has_function_privilege('pgnotifier.may_enqueue()'::regprocedure, 'EXECUTE')
) NOT VALID;

-- Make the subscription of a relay, unless it is there: from then on, the log keeps what is
-- enqueued until it is relayed. Call it in each transaction that enqueues, until it returns true:
-- then the subscription is committed, and not just made by this transaction, which may be undone.
-- It begins now, which includes what this transaction, and all that are open, have published. What
-- is older may be a publisher's, from before such channels were reserved.
CREATE FUNCTION pgnotifier.open_outbox(name text, channel text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    is_committed boolean;
BEGIN
    IF starts_with(channel, 'pgnotifier:') IS NOT TRUE THEN
        RAISE 'the channel of an outbox begins with "pgnotifier:", unlike %',
            coalesce(quote_literal(channel), 'null') USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Rows of this transaction, or of one of its subtransactions, are not older than it.
    SELECT age(u.xmin) > 0 INTO is_committed FROM pgnotifier.subscription AS u
    WHERE u.name = name AND u.channel = channel;
    IF FOUND THEN
        RETURN is_committed;
    END IF;
    PERFORM pgnotifier.subscribe(name, channel);
    RETURN false;
END $$;

-- A moment in ISO 8601, which Python reads, whatever the session's settings are.
CREATE FUNCTION pgnotifier.format_time(what text, at timestamptz) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT at BETWEEN '0001-01-02 00:00+00' AND '9999-12-30 00:00+00' THEN
        RAISE '%: % is not a time that a worker could wait for', what, at
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"');
END $$;

-- Check what tasks and jobs have in common, and find when one is to run: `at`, or after `delay`.
CREATE FUNCTION pgnotifier.check_call(
    what text, name text, args jsonb, kwargs jsonb, queue text, delay_name text, delay interval,
    at_name text, at timestamptz
) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    problem text := CASE
        WHEN octet_length(name) BETWEEN 1 AND 1024 IS NOT TRUE
            THEN format('the name of a %s has 1 to 1,024 bytes', what)
        -- A null is a mistake: '[' || NULL || ']'.
        WHEN jsonb_typeof(args) IS DISTINCT FROM 'array'
            THEN format('args must be a JSON array, not %s', coalesce(jsonb_typeof(args), 'null'))
        WHEN jsonb_typeof(kwargs) IS DISTINCT FROM 'object'
            THEN format(
                'kwargs must be a JSON object, not %s', coalesce(jsonb_typeof(kwargs), 'null')
            )
        WHEN octet_length(queue) NOT BETWEEN 1 AND 255 THEN 'the name of a queue has 1 to 255 bytes'
        WHEN delay IS NOT NULL AND at IS NOT NULL
            THEN format('give %s or %s, not both', delay_name, at_name)
    END;
BEGIN
    IF problem IS NOT NULL THEN
        RAISE '%', problem USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN pgnotifier.format_time(
        CASE WHEN at IS NULL THEN delay_name ELSE at_name END,
        coalesce(at, clock_timestamp() + delay)
    );
END $$;

-- Publish a task or a job that SQL describes. `fields` that are null are left out.
CREATE FUNCTION pgnotifier.put_in_outbox(channel text, fields text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    entry text := '{' || array_to_string(fields, ', ') || '}';
BEGIN
    IF octet_length(channel) > 63 THEN
        RAISE 'the name of an outbox is too long: channel % has % bytes, and may have 63',
            quote_literal(channel), octet_length(channel)
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF octet_length(entry) > 67108864 THEN
        RAISE 'the arguments are too large: with them, an entry has % bytes, and may have 67108864',
            octet_length(entry) USING ERRCODE = 'program_limit_exceeded';
    -- Nothing keeps what no relay has subscribed to.
    ELSIF NOT EXISTS (SELECT FROM pgnotifier.subscription AS u WHERE u.channel = channel) THEN
        RAISE 'no relay has subscribed to channel % yet', quote_literal(channel)
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Start the relay once, or '
            'call pgnotifier.open_outbox() with its name, in a migration for example.';
    END IF;
    INSERT INTO pgnotifier.log AS l (channel, payload) VALUES (channel, entry);
END $$;

-- Enqueue a Celery task, by its name, as part of this transaction. Returns its id.
CREATE FUNCTION pgnotifier.enqueue(
    task text, args jsonb DEFAULT '[]', kwargs jsonb DEFAULT '{}', queue text DEFAULT NULL,
    countdown interval DEFAULT NULL, eta timestamptz DEFAULT NULL,
    expires timestamptz DEFAULT NULL, priority int DEFAULT NULL, headers jsonb DEFAULT NULL,
    id uuid DEFAULT gen_random_uuid(), outbox text DEFAULT 'default'
) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    moment text := pgnotifier.check_call(
        'task', task, args, kwargs, queue, 'countdown', countdown, 'eta', eta
    );
BEGIN
    id := coalesce(id, gen_random_uuid());
    IF jsonb_typeof(headers) <> 'object' THEN
        RAISE 'headers must be a JSON object, not %', jsonb_typeof(headers)
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF priority NOT BETWEEN 0 AND 255 THEN
        RAISE 'the priority must be from 0 to 255, not %', priority
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pgnotifier.put_in_outbox(
        'pgnotifier:celery:' || coalesce(outbox, 'default'),
        ARRAY[
            '"task": ' || to_json(task), format('"id": "%s"', id),
            '"args": ' || args::text, '"kwargs": ' || kwargs::text,
            '"queue": ' || to_json(queue), '"eta": ' || to_json(moment),
            '"expires": ' || to_json(pgnotifier.format_time('expires', expires)),
            '"priority": ' || priority, '"headers": ' || headers::text
        ]
    );
    RETURN id;
END $$;

-- Enqueue an RQ job, a function by its dotted name, as part of this transaction. Returns the job's
-- id. timeout, result_ttl, failure_ttl and ttl are in seconds, as RQ takes them; -1: without limit.
CREATE FUNCTION pgnotifier.enqueue_job(
    function text, args jsonb DEFAULT '[]', kwargs jsonb DEFAULT '{}', queue text DEFAULT NULL,
    delay interval DEFAULT NULL, at timestamptz DEFAULT NULL, timeout int DEFAULT NULL,
    result_ttl int DEFAULT NULL, failure_ttl int DEFAULT NULL, ttl int DEFAULT NULL,
    description text DEFAULT NULL, meta jsonb DEFAULT NULL,
    id uuid DEFAULT gen_random_uuid(), outbox text DEFAULT 'default'
) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    moment text := pgnotifier.check_call(
        'function', function, args, kwargs, queue, 'delay', delay, 'at', at
    );
BEGIN
    id := coalesce(id, gen_random_uuid());
    IF jsonb_typeof(meta) <> 'object' THEN
        RAISE 'meta must be a JSON object, not %', jsonb_typeof(meta)
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF least(timeout, result_ttl, failure_ttl, ttl) < -1 THEN
        RAISE 'a number of seconds is -1 or more, not %',
            least(timeout, result_ttl, failure_ttl, ttl) USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pgnotifier.put_in_outbox(
        'pgnotifier:rq:' || coalesce(outbox, 'default'),
        ARRAY[
            '"function": ' || to_json(function), format('"id": "%s"', id),
            '"args": ' || args::text, '"kwargs": ' || kwargs::text,
            '"queue": ' || to_json(queue), '"at": ' || to_json(moment),
            '"timeout": ' || timeout,
            '"result_ttl": ' || result_ttl, '"failure_ttl": ' || failure_ttl, '"ttl": ' || ttl,
            '"description": ' || to_json(description), '"meta": ' || meta::text
        ]
    );
    RETURN id;
END $$;

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
