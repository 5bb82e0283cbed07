-- Set how many attempts a cycle of these campaigns has; 0: the number in A1_MAX_RETRIES.
--   psql -v ids='{ID,…}' -v max_retries=5 -v reason='…' -f database/queries/limit.sql
\if :{?who} \else \set who '' \endif
\if :{?source} \else \set source psql \endif
\if :{?reason} \else \set reason '' \endif
WITH named AS (
    SELECT set_config('a1_to_a2.actor', :'who', TRUE), set_config('a1_to_a2.source', :'source', TRUE),
           set_config('a1_to_a2.reason', :'reason', TRUE)
)
UPDATE campaign_status
SET a1_max_retries = nullif(:'max_retries'::int, 0), updated_at = now()
FROM named
WHERE campaign_id = ANY (:'ids'::text[]) AND a1_max_retries IS DISTINCT FROM nullif(:'max_retries'::int, 0)
RETURNING campaign_id, campaign_number, campaign_name, status, a1_max_retries;
