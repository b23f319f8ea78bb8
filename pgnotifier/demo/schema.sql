-- What a user would write: an order that is placed notifies whoever listens; one that is paid is
-- published durably. Both happen in the transaction that changes the order.

CREATE TABLE orders (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item   text NOT NULL,
    amount integer NOT NULL DEFAULT 1,
    paid   boolean NOT NULL DEFAULT false
);

CREATE FUNCTION announce() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM pg_notify('orders', row_to_json(NEW)::text);
    ELSE
        PERFORM pgnotifier.publish('paid', row_to_json(NEW)::text);
    END IF;
    RETURN NEW;
END;
$$;

CREATE TRIGGER order_announces AFTER INSERT OR UPDATE OF paid ON orders
    FOR EACH ROW EXECUTE FUNCTION announce();
