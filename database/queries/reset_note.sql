-- Set who resets campaigns, and why, for the history (migration 023), and lock those that have not changed since they
-- were shown. Run it before reset.sql, in the same transaction.
-- ids: the campaigns. seen: the time of each one's last attempt when it was shown. The returned ids do not include a
-- campaign that has changed since then, or has nothing to reset.
WITH named AS (
    SELECT set_config('a1_to_a2.actor', :'who', TRUE), set_config('a1_to_a2.source', :'source', TRUE),
           set_config('a1_to_a2.reason', :'reason', TRUE)
), chosen AS (
    SELECT c.campaign_id
    FROM campaign_status c
    JOIN unnest(:'ids'::text[], :'seen'::timestamptz[]) AS shown (campaign_id, last_retry_at)
      ON shown.campaign_id = c.campaign_id AND shown.last_retry_at IS NOT DISTINCT FROM c.a1_last_retry_at
    WHERE c.a1_retry_count > 0 OR c.a1_permanently_failed
    FOR UPDATE OF c
)
SELECT coalesce(array_agg(campaign_id), '{}') AS ids FROM chosen, named
\gset
