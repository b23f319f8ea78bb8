GRANT USAGE ON SCHEMA pgnotifier TO {role};
GRANT SELECT ON
    pgnotifier.failed,
    pgnotifier.installed,
    pgnotifier.log,
    pgnotifier.log_id_seq,
    pgnotifier.position,
    pgnotifier.positions,
    pgnotifier.subscription
TO {role};
GRANT EXECUTE ON FUNCTION
    pgnotifier.awake(boolean),
    pgnotifier.batch(text, pg_snapshot, pg_snapshot, bigint, int),
    pgnotifier.doze(),
    pgnotifier.drop_failed(bigint[]),
    pgnotifier.due(int, int, bigint),
    pgnotifier.fail(
        int, bigint, timestamptz, text, bytea, bytea, text, text, double precision, boolean
    ),
    pgnotifier.fail_again(bigint, text, text, double precision, boolean),
    pgnotifier.forget(text, text),
    pgnotifier.hold(int),
    pgnotifier.is_native(int, bigint),
    pgnotifier.read(text, pg_snapshot, pg_snapshot, bigint, int, bigint),
    pgnotifier.reanchor(),
    pgnotifier.reclaim(interval, bigint, interval),
    pgnotifier.retry(bigint[]),
    pgnotifier.save(int, pg_snapshot, pg_snapshot, bigint),
    pgnotifier.seek(text, text, text, bigint, timestamptz),
    pgnotifier.subscribe(text, text, text, bigint, timestamptz),
    pgnotifier.take(int, bigint, pg_snapshot)
TO {role};
