-- Each new row is sent on a channel, with the row itself as the payload.
CREATE TABLE IF NOT EXISTS images (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    path text NOT NULL,
    thumbnail text
);

CREATE TABLE IF NOT EXISTS orders (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item text NOT NULL,
    invoiced_at timestamptz
);

-- No foreign key: the report would show a shipment without a sale.
CREATE TABLE IF NOT EXISTS sales (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item text NOT NULL
);

CREATE TABLE IF NOT EXISTS shipments (sale int NOT NULL);

CREATE OR REPLACE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify(TG_ARGV[0], to_json(NEW)::text);
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER image_uploaded AFTER INSERT ON images
    FOR EACH ROW EXECUTE FUNCTION tell('image_uploaded');

CREATE OR REPLACE TRIGGER order_placed AFTER INSERT ON orders
    FOR EACH ROW EXECUTE FUNCTION tell('order_placed');
