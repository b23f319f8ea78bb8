GRANT USAGE ON SCHEMA pgnotifier TO {role};
GRANT EXECUTE ON FUNCTION pgnotifier.once(text), pgnotifier.reclaim_done() TO {role};
