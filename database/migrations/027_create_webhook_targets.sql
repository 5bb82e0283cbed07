-- The outbox has two channels: e-mail and webhooks. A webhook's message is a row of notices, of the kind that its payload
-- names (campaign.permanently_failed, ...), with one delivery a target; body_text is the payload as JSON.
--   notice_deliveries.channel   email, or webhook: then recipient is the target's name
--   notice_deliveries.ticket    the incident that the target opened or closed for it (INC0012345, OPS-12, a dedup key)
--   notices.dedup_key           of a webhook's message: installation, campaign and cycle, or installation and task
--   webhook_targets             one row a target that a run has seen in the settings. begun_at: since when; what happened
--                               before is not reported. wait_until: no call before, as it asked by Retry-After.
--                               off_at, off_why: it answered 410, and gets nothing until a test reaches it
-- And an index over the acts of people that webhooks report, from their newest end.

SET lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

ALTER TABLE notices ADD COLUMN IF NOT EXISTS dedup_key TEXT;

ALTER TABLE notice_deliveries
    ADD COLUMN IF NOT EXISTS channel TEXT DEFAULT 'email',
    ADD COLUMN IF NOT EXISTS ticket TEXT;

CREATE TABLE IF NOT EXISTS webhook_targets (
    name       TEXT PRIMARY KEY,
    begun_at   TIMESTAMP WITH TIME ZONE NOT NULL,
    wait_until TIMESTAMP WITH TIME ZONE,
    off_at     TIMESTAMP WITH TIME ZONE,
    off_why    TEXT
);

CREATE INDEX IF NOT EXISTS notices_dedup_idx ON notices (dedup_key, created_at) WHERE dedup_key IS NOT NULL;
CREATE INDEX IF NOT EXISTS notice_deliveries_webhook_idx ON notice_deliveries (recipient, next_try_at)
    WHERE channel = 'webhook' AND sent_at IS NULL AND gave_up_at IS NULL;
CREATE INDEX IF NOT EXISTS notice_deliveries_ticket_idx ON notice_deliveries (recipient, ticket)
    WHERE ticket IS NOT NULL;
CREATE INDEX IF NOT EXISTS campaign_events_told_idx ON campaign_events (at) WHERE kind IN ('reset', 'snooze', 'undo');

-- A role that writes what runs write (roles.sql granted it that before this table existed) also keeps the targets.
DO $$
DECLARE
    writer oid;
BEGIN
    FOR writer IN
        SELECT DISTINCT x.grantee
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) AS x
        WHERE c.oid = 'run_epochs'::regclass AND x.privilege_type = 'UPDATE' AND x.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON webhook_targets TO %s',
                       CASE WHEN writer = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(writer)) END);
    END LOOP;
END
$$;

INSERT INTO schema_migrations (name) VALUES ('027_create_webhook_targets') ON CONFLICT DO NOTHING;

RESET lock_timeout;
