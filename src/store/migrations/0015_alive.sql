-- When the gateway on this store was seen to live last, while it had tasks: a Unix time in ms. One row.
CREATE TABLE alive (
    at_ms BIGINT NOT NULL
);

INSERT INTO alive (at_ms) VALUES (0);
