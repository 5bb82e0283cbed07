-- Many notices of a kind for one recipient go out as one, a digest. It is a row of notices like any other, of no
-- campaign and without deliveries of its own: it goes out for those that it carries.
--   notice_deliveries.mail_id   the digest that carries the notice to this recipient. NULL, or before 022 also the
--                               notice's own id: it goes out by itself
-- What was in notice_bundles moves to notices. Columns that nothing reads go.

SET lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

-- In one statement, so that no digest is lost which a run makes meanwhile.
DO $$
BEGIN
    IF to_regclass('notice_bundles') IS NOT NULL THEN
        LOCK TABLE notice_bundles IN ACCESS EXCLUSIVE MODE;
        INSERT INTO notices (id, kind, campaign_id, subject, body_text, body_html, created_at)
        SELECT id, kind, '', subject, body_text, body_html, created_at FROM notice_bundles
        ON CONFLICT (id) DO NOTHING;
        DROP TABLE notice_bundles;
    END IF;
END
$$;

ALTER TABLE upload_sessions DROP COLUMN IF EXISTS part_size;
ALTER TABLE orchestrator_task_alerts DROP COLUMN IF EXISTS last_failed_at;

INSERT INTO schema_migrations (name) VALUES ('022_digests_are_notices') ON CONFLICT DO NOTHING;

RESET lock_timeout;
