-- The campaigns with one attempt left:  psql -v max_retries=3 -f database/queries/near_failure.sql
SELECT campaign_id, campaign_number, campaign_name, status, a1_retry_count, a1_last_retry_at, a1_failure_reason
FROM campaign_status
WHERE status = 'A1' AND NOT a1_permanently_failed AND a1_retry_count > 0 AND a1_retry_count = :'max_retries'::int - 1
ORDER BY a1_last_retry_at DESC NULLS LAST, campaign_id;
