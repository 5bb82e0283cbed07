-- Try campaigns again from attempt 1, and note in a1_resets who did it and why. The tool runs this, and so does psql
-- by reset_one.sql, reset_all_failed.sql and reset_digest.sql, where the role may write to a1_resets.
-- ids: the campaigns. seen: the time of each one's last attempt when somebody looked; one that has changed since
-- then stays as it is, and is not in the answer.
WITH chosen AS (
    SELECT c.campaign_id, c.a1_retry_count, c.a1_permanently_failed
    FROM campaign_status c
    JOIN unnest(:'ids'::text[], :'seen'::timestamptz[]) AS shown (campaign_id, last_retry_at)
      ON shown.campaign_id = c.campaign_id AND shown.last_retry_at IS NOT DISTINCT FROM c.a1_last_retry_at
    WHERE c.a1_retry_count > 0 OR c.a1_permanently_failed
    FOR UPDATE OF c
), noted AS (
    INSERT INTO a1_resets (campaign_id, reset_by, reason, retry_count_before, was_permanently_failed)
    SELECT campaign_id, :'who', :'reason', coalesce(a1_retry_count, 0), coalesce(a1_permanently_failed, FALSE)
    FROM chosen
)
UPDATE campaign_status c
SET a1_retry_count = 0, a1_last_retry_at = NULL, a1_permanently_failed = FALSE, a1_failure_reason = NULL,
    updated_at = now()
FROM chosen WHERE c.campaign_id = chosen.campaign_id
RETURNING c.campaign_id, c.campaign_number, c.campaign_name, c.status;
