-- Executed before each upgrade. With a publication FOR ALL TABLES, a table without a primary key can't
-- be updated otherwise.
-- This needs locks that exclude everybody. Publishers, who read the limits now and then, and readers
-- queue up behind a lock that is waited for, so that is done for moments only, again and again, for as
-- long as the upgrade may wait for a lock. What comes afterwards is quick.
DO $$
DECLARE
    allowed text := current_setting('lock_timeout');
    until timestamptz := clock_timestamp() + allowed::interval;
    -- The first one is waited for: publishers use it, and they shouldn't find it locked while another
    -- one is waited for. The last one has a primary key, but gets more columns in version 4.
    tables regclass[] := ARRAY(
        SELECT c.oid FROM unnest(ARRAY['limits', 'installed', 'done_keep', 'reader'])
        WITH ORDINALITY AS given (name, place)
        JOIN pg_class AS c ON c.oid = to_regclass(format('pgnotifier.%s', given.name))
        ORDER BY given.place
    );
    one regclass;
    waits text;
    holders text;
BEGIN
    LOOP
        BEGIN
            PERFORM set_config('lock_timeout', '100ms', true);
            waits := '';
            FOREACH one IN ARRAY tables LOOP
                EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE%s', one, waits);
                waits := ' NOWAIT';
            END LOOP;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN NULL; -- which has given the others back
        END;
        IF clock_timestamp() >= until THEN
            SELECT string_agg(
                format(
                    '%s by %s', h.relation::regclass,
                    coalesce('pid ' || h.pid || ' since ' || h.since, 'pid ' || h.pid,
                        'a prepared transaction')
                ),
                ', '
            ) INTO holders FROM (
                SELECT l.relation, l.pid, a.xact_start AS since
                FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
                WHERE l.locktype = 'relation' AND l.relation = ANY (tables) AND l.granted
                    AND l.database = (
                        SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()
                    )
                    AND l.pid IS DISTINCT FROM pg_backend_pid()
                ORDER BY a.xact_start, l.relation LIMIT 5
            ) AS h;
            RAISE 'tables are locked by transactions that don''t end: %. Nothing has changed. Wait for '
                'them or end them, and run the upgrade again', coalesce(holders, 'by many in turn')
                USING ERRCODE = 'lock_not_available';
        END IF;
        PERFORM pg_sleep(0.2);
    END LOOP;
    PERFORM set_config('lock_timeout', allowed, true);
    FOR one IN
        SELECT c.oid FROM pg_class AS c
        WHERE c.oid = ANY (tables) AND c.relreplident <> 'f'
            AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary)
    LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', one);
    END LOOP;
END $$;
