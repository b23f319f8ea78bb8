-- Each new order is sent on a channel, with the row itself as the payload.
CREATE TABLE IF NOT EXISTS orders (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item text NOT NULL
);

CREATE OR REPLACE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify(TG_ARGV[0], to_json(NEW)::text);
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER order_placed AFTER INSERT ON orders
    FOR EACH ROW EXECUTE FUNCTION tell('order_placed');
