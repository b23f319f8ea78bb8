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
