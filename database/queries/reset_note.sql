-- Note in a1_resets who resets campaigns, and why: to be run before reset.sql, in the same transaction.
-- ids: the campaigns. seen: the time of each one's last attempt when somebody looked; one that has changed since then,
-- or has nothing to reset, is not among the ids that come back.
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
SELECT coalesce(array_agg(campaign_id), '{}') AS ids FROM chosen
\gset
