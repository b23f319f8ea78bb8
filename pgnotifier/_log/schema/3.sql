-- ===== What a reader does first, in one step =====

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
