-- How far a spool (a file of what waited while the server was away) is in the tables: which one, and so many records of it.
ALTER TABLE owner ADD COLUMN spool TEXT NOT NULL DEFAULT '';
ALTER TABLE owner ADD COLUMN spool_records BIGINT NOT NULL DEFAULT 0;
