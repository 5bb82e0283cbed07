-- Who may write: one row a lock, and the number of its latest holder. Whoever takes the lock adds one, and every
-- write of a run holds the row in its own transaction; a run that another one has followed is refused there,
-- with the SQLSTATE A1001.

SET lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

CREATE TABLE IF NOT EXISTS run_epochs (
    lock     INTEGER PRIMARY KEY,
    epoch    BIGINT NOT NULL,
    holder   TEXT NOT NULL,
    taken_at TIMESTAMP WITH TIME ZONE NOT NULL
);

-- Until the transaction ends nobody else can become the holder: FOR SHARE keeps the row's next number waiting.
CREATE OR REPLACE FUNCTION hold_run(which INTEGER, mine BIGINT) RETURNS VOID LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM run_epochs WHERE lock = which AND epoch = mine FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'run number % no longer holds lock %', mine, which USING ERRCODE = 'A1001';
    END IF;
END
$$;

INSERT INTO schema_migrations (name) VALUES ('015_create_run_epochs') ON CONFLICT DO NOTHING;

RESET lock_timeout;
