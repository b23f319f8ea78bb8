GRANT USAGE ON SCHEMA pgnotifier TO {role};
GRANT INSERT (channel, key, payload), SELECT (id) ON pgnotifier.log TO {role};
GRANT SELECT ON SEQUENCE pgnotifier.bell, pgnotifier.slot TO {role};
GRANT EXECUTE ON FUNCTION
    pgnotifier.lock_keys(text, text[]),
    pgnotifier.publish(text, text, text, boolean),
    pgnotifier.publish(text, jsonb, text, boolean),
    pgnotifier.ring(),
    pgnotifier.snapshot()
TO {role};
GRANT EXECUTE ON FUNCTION
    pgnotifier.enqueue(
        text, jsonb, jsonb, text, interval, timestamptz, timestamptz, int, jsonb, uuid, text
    ),
    pgnotifier.enqueue_job(
        text, jsonb, jsonb, text, interval, timestamptz, int, int, int, int, text, jsonb, uuid, text
    ),
    pgnotifier.may_enqueue(),
    pgnotifier.open_outbox(text, text)
TO {role};
