-- ===== Volatile listeners: pgnotifier.publish(..., notify => true) =====

-- With notify, volatile listeners get the entry as well. A NOTIFY on pgnotifier_published comes
-- before it, so that a session that reads the channel durably can recognise it. What is too long
-- for a NOTIFY goes out as a reference on pgnotifier_reference, a channel of its own, so that no
-- payload can be mistaken for one. Like all equal notifications of a transaction, equal ones become
-- one. NOTIFY needs no privilege, pg_notify() may.
CREATE FUNCTION pgnotifier.publish(
    channel text, payload text DEFAULT '', key text DEFAULT NULL, notify boolean DEFAULT false
) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    made bigint;
BEGIN
    INSERT INTO pgnotifier.log AS l (channel, key, payload) VALUES (channel, key, payload)
    RETURNING l.id INTO made;
    IF notify AND octet_length(payload) <= 7999 THEN
        EXECUTE format('NOTIFY pgnotifier_published, %L', channel);
        EXECUTE format('NOTIFY %I, %L', channel, payload);
    ELSIF notify THEN
        EXECUTE format(
            'NOTIFY pgnotifier_reference, %L', concat_ws(' ', pg_current_xact_id(), made, channel)
        );
    END IF;
    RETURN made;
END $$;

CREATE FUNCTION pgnotifier.publish(
    channel text, payload jsonb, key text DEFAULT NULL, notify boolean DEFAULT false
) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN pgnotifier.publish(channel, payload::text, key, notify);
END $$;

-- Whoever may execute the functions that these replace may execute these.
DO $$
DECLARE
    given record;
BEGIN
    REVOKE ALL ON FUNCTION
        pgnotifier.publish(text, text, text, boolean),
        pgnotifier.publish(text, jsonb, text, boolean)
    FROM PUBLIC;
    FOR given IN
        SELECT renewed.now, a.is_grantable, CASE
            WHEN a.grantee = 0 THEN 'PUBLIC'
            ELSE quote_ident(pg_get_userbyid(a.grantee))
        END AS grantee
        FROM (
            VALUES
            (
                'pgnotifier.publish(text, text, text)'::regprocedure,
                'pgnotifier.publish(text, text, text, boolean)'::regprocedure
            ),
            (
                'pgnotifier.publish(text, jsonb, text)'::regprocedure,
                'pgnotifier.publish(text, jsonb, text, boolean)'::regprocedure
            )
        ) AS renewed (before, now)
        JOIN pg_proc AS p ON p.oid = renewed.before
        CROSS JOIN LATERAL aclexplode(p.proacl) AS a
        WHERE a.grantee <> p.proowner
    LOOP
        EXECUTE format(
            'GRANT EXECUTE ON FUNCTION %s TO %s %s', given.now, given.grantee,
            CASE WHEN given.is_grantable THEN 'WITH GRANT OPTION' END
        );
    END LOOP;
END $$;
DROP FUNCTION pgnotifier.publish(text, text, text), pgnotifier.publish(text, jsonb, text);

-- ===== The version =====

UPDATE pgnotifier.installed SET version = 2, at = clock_timestamp();
