-- What reset_one.sql, reset_all_failed.sql and reset_digest.sql have in common. A person whose role may not write
-- to a1_resets resets all the same, and is told that nobody will see who did it.
SELECT has_table_privilege('a1_resets', 'INSERT') AS may_note \gset
\if :may_note
\ir reset.sql
\else
\warn 'not noted in a1_resets, for lack of a right: GRANT INSERT ON a1_resets TO' :who
UPDATE campaign_status c
SET a1_retry_count = 0, a1_last_retry_at = NULL, a1_permanently_failed = FALSE, a1_failure_reason = NULL,
    updated_at = now()
FROM unnest(:'ids'::text[], :'seen'::timestamptz[]) AS shown (campaign_id, last_retry_at)
WHERE shown.campaign_id = c.campaign_id AND shown.last_retry_at IS NOT DISTINCT FROM c.a1_last_retry_at
  AND (c.a1_retry_count > 0 OR c.a1_permanently_failed)
RETURNING c.campaign_id, c.campaign_number, c.campaign_name, c.status;
\endif
