-- Try every permanently failed campaign again from attempt 1.
UPDATE campaign_status
SET a1_retry_count = 0, a1_last_retry_at = NULL, a1_permanently_failed = FALSE, a1_failure_reason = NULL,
    updated_at = now()
WHERE a1_permanently_failed
RETURNING campaign_id, campaign_number, campaign_name;
