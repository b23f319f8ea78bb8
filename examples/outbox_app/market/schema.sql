-- There is one order for each way of placing it and each thing that goes wrong meanwhile.
CREATE TABLE orders (
    way text,
    accident text,
    PRIMARY KEY (way, accident)
);

-- Without a foreign key: an invoice may come before its order, or without one.
CREATE TABLE invoices (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    way text NOT NULL,
    accident text NOT NULL
);
