-- Files are promised: until then no attempt counts and no retry notice goes out; runs upload files that come as usual.
-- A permanently failed campaign is reset at the same time.
--   psql -v ids='{ID,…}' -v until='2026-12-07 08:00 Europe/Rome' -v reason='…' -f database/queries/snooze.sql
\if :{?who} \else \set who '' \endif
\if :{?source} \else \set source psql \endif
\if :{?reason} \else \set reason '' \endif
WITH named AS (
    SELECT set_config('a1_to_a2.actor', :'who', TRUE), set_config('a1_to_a2.source', :'source', TRUE),
           set_config('a1_to_a2.reason', :'reason', TRUE)
), before AS (
    SELECT campaign_id, coalesce(a1_permanently_failed, FALSE) AS is_failed
    FROM campaign_status WHERE campaign_id = ANY (:'ids'::text[])
    FOR UPDATE
)
UPDATE campaign_status c
SET a1_snoozed_until = :'until'::timestamptz,
    a1_retry_count = CASE WHEN is_failed THEN 0 ELSE a1_retry_count END,
    a1_last_retry_at = CASE WHEN is_failed THEN NULL ELSE a1_last_retry_at END,
    a1_permanently_failed = FALSE,
    a1_failure_reason = CASE WHEN is_failed THEN NULL ELSE a1_failure_reason END,
    updated_at = now()
FROM before, named
WHERE c.campaign_id = before.campaign_id AND :'until'::timestamptz > now()
RETURNING c.campaign_id, c.campaign_number, c.campaign_name, c.status, c.a1_snoozed_until, is_failed AS is_reset;
