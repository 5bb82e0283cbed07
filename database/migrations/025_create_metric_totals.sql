-- What the metrics need beside the tables that tell it.
--   metric_totals   totals that never fall, also when the rows behind them are removed: one row a total. label: what
--                   the total is counted by, "task/outcome" for the runs of tasks; '' for a total of its own.
--                   Written by a statement of its own, which waits for nobody: no campaign's transaction holds a row
--                   of it
-- And two indexes: the last run of a task that did its work, and the notices that were given up lately, are found
-- without a look at the history.

SET lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

CREATE TABLE IF NOT EXISTS metric_totals (
    name  TEXT NOT NULL,
    label TEXT NOT NULL,
    value BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (name, label)
);

CREATE INDEX IF NOT EXISTS orchestrator_task_runs_done_idx ON orchestrator_task_runs (task, started_at DESC)
    WHERE exit_code IN (0, 4);
CREATE INDEX IF NOT EXISTS notice_deliveries_given_up_idx ON notice_deliveries (gave_up_at)
    WHERE gave_up_at IS NOT NULL;

-- A role that writes what runs write (roles.sql granted it that before this table existed) also counts.
DO $$
DECLARE
    writer oid;
BEGIN
    FOR writer IN
        SELECT DISTINCT x.grantee
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) AS x
        WHERE c.oid = 'run_epochs'::regclass AND x.privilege_type = 'UPDATE' AND x.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON metric_totals TO %s',
                       CASE WHEN writer = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(writer)) END);
    END LOOP;
END
$$;

INSERT INTO schema_migrations (name) VALUES ('025_create_metric_totals') ON CONFLICT DO NOTHING;

RESET lock_timeout;
