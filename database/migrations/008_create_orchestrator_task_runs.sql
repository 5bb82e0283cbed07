-- Every run that the orchestrator started, kept for 35 days: what is due after a restart is read from here, and
-- the daily report counts it. planned_at is the minute the cadence asked for, started_at the truth. A row
-- without finished_at runs still, or its orchestrator was killed under it.

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

CREATE TABLE IF NOT EXISTS orchestrator_task_runs (
    run_id      TEXT PRIMARY KEY,
    task        TEXT NOT NULL,
    planned_at  TIMESTAMP WITH TIME ZONE NOT NULL,
    started_at  TIMESTAMP WITH TIME ZONE NOT NULL,
    finished_at TIMESTAMP WITH TIME ZONE,
    exit_code   INTEGER, -- the script's own; minus the signal's number when a signal ended it
    ending      TEXT,    -- in words: 'exit code 75', 'ended at its time limit', 'killed by SIGKILL'
    host        TEXT NOT NULL
);

-- Serves "the last run of each task" and the report's day; the history behind it costs nothing.
CREATE INDEX IF NOT EXISTS orchestrator_task_runs_task_idx ON orchestrator_task_runs (task, started_at DESC);
CREATE INDEX IF NOT EXISTS orchestrator_task_runs_started_idx ON orchestrator_task_runs (started_at);

INSERT INTO schema_migrations (name) VALUES ('008_create_orchestrator_task_runs') ON CONFLICT DO NOTHING;
