-- The workers of ENGINE=procrastinate, and what each works on (MARKDOWN_DOCS/SCALE_OUT.md). Empty with ENGINE=local.
--   workers           one row a worker that runs; a clean end removes it. seen_at: written every 5 seconds.
--                     drain_asked_at: somebody asks it to finish what it has and to stop. trouble: why it could
--                     work on no campaign lately, with the exit code that a run would have; the next run reports it,
--                     and notes that in trouble_seen_at
--   worker_campaigns  one row a campaign that a worker works on now

SET lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

CREATE TABLE IF NOT EXISTS workers (
    worker            TEXT PRIMARY KEY, -- the application_name of its connections, as in campaign_epochs.holder
    host              TEXT NOT NULL,
    started_at        TIMESTAMP WITH TIME ZONE NOT NULL,
    seen_at           TIMESTAMP WITH TIME ZONE NOT NULL,
    campaigns_at_once INTEGER NOT NULL,
    drain_asked_at    TIMESTAMP WITH TIME ZONE,
    drain_asked_by    TEXT,
    trouble           TEXT,
    trouble_code      INTEGER,
    trouble_at        TIMESTAMP WITH TIME ZONE,
    trouble_seen_at   TIMESTAMP WITH TIME ZONE
);

CREATE TABLE IF NOT EXISTS worker_campaigns (
    campaign_id TEXT PRIMARY KEY,
    worker      TEXT NOT NULL,
    since       TIMESTAMP WITH TIME ZONE NOT NULL
);

-- A role that writes what runs write (roles.sql granted it that before these tables existed).
DO $$
DECLARE
    writer oid;
BEGIN
    FOR writer IN
        SELECT DISTINCT x.grantee
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) AS x
        WHERE c.oid = 'run_epochs'::regclass AND x.privilege_type = 'UPDATE' AND x.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON workers, worker_campaigns TO %s',
                       CASE WHEN writer = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(writer)) END);
    END LOOP;
END
$$;

INSERT INTO schema_migrations (name) VALUES ('028_create_workers') ON CONFLICT DO NOTHING;

RESET lock_timeout;
