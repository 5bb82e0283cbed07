-- The permanently failed campaigns: runs skip them, without e-mails, until somebody resets them.
SELECT campaign_id, campaign_number, campaign_name, status, a1_retry_count, a1_last_retry_at, a1_failure_reason,
       a1_permanently_failed, a1_max_retries, a1_cycle, a1_auto_resets, a1_snoozed_until
FROM campaign_status
WHERE a1_permanently_failed
ORDER BY a1_last_retry_at DESC NULLS LAST, campaign_id;
