-- End a snooze: attempts count again from the next run.
--   psql -v ids='{ID,…}' -v reason='…' -f database/queries/wake.sql
\if :{?who} \else \set who '' \endif
\if :{?source} \else \set source psql \endif
\if :{?reason} \else \set reason '' \endif
WITH named AS (
    SELECT set_config('a1_to_a2.actor', :'who', TRUE), set_config('a1_to_a2.source', :'source', TRUE),
           set_config('a1_to_a2.reason', :'reason', TRUE)
)
UPDATE campaign_status
SET a1_snoozed_until = NULL, updated_at = now()
FROM named
WHERE campaign_id = ANY (:'ids'::text[]) AND a1_snoozed_until > now()
RETURNING campaign_id, campaign_number, campaign_name, status;
