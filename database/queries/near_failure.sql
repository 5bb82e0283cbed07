-- The campaigns with one attempt left:  psql -v max_retries=3 -f database/queries/near_failure.sql
-- max_retries: A1_MAX_RETRIES; a campaign's own limit wins. Also -v status_a1=CODE, if DAM_STATUS_A1 is not A1.
\if :{?max_retries} \else \set max_retries 3 \endif
\if :{?status_a1} \else \set status_a1 A1 \endif
SELECT campaign_id, campaign_number, campaign_name, status, a1_retry_count, a1_last_retry_at, a1_failure_reason,
       a1_permanently_failed, a1_max_retries, a1_cycle, a1_auto_resets, a1_snoozed_until
FROM campaign_status
WHERE status = :'status_a1' AND a1_permanently_failed IS NOT TRUE AND a1_retry_count > 0
  AND a1_retry_count >= coalesce(a1_max_retries, :'max_retries'::int) - 1
ORDER BY a1_last_retry_at DESC NULLS LAST, campaign_id;
