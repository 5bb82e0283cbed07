-- Every campaign that has spent an attempt, the newest first.
SELECT campaign_id, campaign_number, campaign_name, status, a1_retry_count, a1_permanently_failed,
       a1_last_retry_at, a1_failure_reason
FROM campaign_status
WHERE a1_retry_count > 0 OR a1_permanently_failed
ORDER BY a1_last_retry_at DESC NULLS LAST, campaign_id;
