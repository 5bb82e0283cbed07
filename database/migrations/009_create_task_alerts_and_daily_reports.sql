-- What keeps the orchestrator's own e-mails few.
--   orchestrator_task_alerts  one row a task and way of failing: how often since the last good run, what was told
--   daily_reports             one row a local date: its report has been put into the outbox, never a second time

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

CREATE TABLE IF NOT EXISTS orchestrator_task_alerts (
    task           TEXT NOT NULL,
    ending         TEXT NOT NULL,
    failures       INTEGER NOT NULL,
    began_at       TIMESTAMP WITH TIME ZONE NOT NULL,
    last_failed_at TIMESTAMP WITH TIME ZONE NOT NULL,
    is_announced   BOOLEAN NOT NULL,
    last_notice_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (task, ending)
);

CREATE TABLE IF NOT EXISTS daily_reports (
    report_date DATE PRIMARY KEY,
    notice_id   UUID NOT NULL,
    queued_at   TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now()
);

INSERT INTO schema_migrations (name) VALUES ('009_create_task_alerts_and_daily_reports')
ON CONFLICT DO NOTHING;
