-- What a user would write: each new order notifies, in the transaction that inserts it.

CREATE TABLE orders (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item   text NOT NULL,
    amount integer NOT NULL DEFAULT 1
);

CREATE FUNCTION notify_order() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('orders', row_to_json(NEW)::text);
    RETURN NEW;
END;
$$;

CREATE TRIGGER order_notifies AFTER INSERT ON orders
    FOR EACH ROW EXECUTE FUNCTION notify_order();
