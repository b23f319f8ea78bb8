GRANT USAGE ON SCHEMA pgnotifier TO {role};
GRANT SELECT ON
    pgnotifier.failed,
    pgnotifier.gap,
    pgnotifier.installed,
    pgnotifier.limits,
    pgnotifier.log,
    pgnotifier.log_id_seq,
    pgnotifier.max_lag,
    pgnotifier.position,
    pgnotifier.positions,
    pgnotifier.reader,
    pgnotifier.slot,
    pgnotifier.subscription
TO {role};
GRANT EXECUTE ON FUNCTION
    pgnotifier.advance(
        int, int, bigint, pg_snapshot, int, boolean, pg_snapshot, bigint, boolean,
        pg_snapshot, pg_snapshot, bigint, boolean
    ),
    pgnotifier.awake(boolean),
    pgnotifier.batch(text, pg_snapshot, pg_snapshot, bigint, int),
    pgnotifier.count_waiting(int, int),
    pgnotifier.doze(),
    pgnotifier.drop_failed(bigint[]),
    pgnotifier.drop_gaps(bigint[]),
    pgnotifier.due(int, int, bigint),
    pgnotifier.fail(
        int, bigint, timestamptz, text, bytea, bytea, text, text, double precision, boolean
    ),
    pgnotifier.fail_again(bigint, text, text, double precision, boolean),
    pgnotifier.find_unread(interval),
    pgnotifier.forget(text, text),
    pgnotifier.hold(int),
    pgnotifier.is_native(int, bigint),
    pgnotifier.limit_lag(int, bigint, bigint, interval),
    pgnotifier.list_outbox(int, int, boolean, bigint[], text, text, boolean),
    pgnotifier.list_positions(),
    pgnotifier.lock_holders(),
    pgnotifier.measure(int),
    pgnotifier.move(int, bigint, pg_snapshot, pg_snapshot, bigint),
    pgnotifier.note_reader(int[], double precision[]),
    pgnotifier.read(text, pg_snapshot, pg_snapshot, bigint, int, bigint),
    pgnotifier.reanchor(),
    pgnotifier.reclaim(interval, bigint, interval),
    pgnotifier.reclaim_done(),
    pgnotifier.retry(bigint[]),
    pgnotifier.save(int, pg_snapshot, pg_snapshot, bigint),
    pgnotifier.seek(text, text, text, bigint, timestamptz),
    pgnotifier.set_aside(int, bigint[], text),
    pgnotifier.slots(),
    pgnotifier.subscribe(text, text, text, bigint, timestamptz),
    pgnotifier.take(int, bigint, pg_snapshot),
    pgnotifier.take_gaps(int)
TO {role};
