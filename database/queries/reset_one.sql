-- Try one campaign again from attempt 1:  psql -v campaign_id=… -f database/queries/reset_one.sql
UPDATE campaign_status
SET a1_retry_count = 0, a1_last_retry_at = NULL, a1_permanently_failed = FALSE, a1_failure_reason = NULL,
    updated_at = now()
WHERE campaign_id = :'campaign_id'
RETURNING campaign_id, campaign_number, campaign_name;
