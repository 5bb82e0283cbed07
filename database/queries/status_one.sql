-- One campaign:  psql -v campaign_id=… -f database/queries/status_one.sql
SELECT campaign_id, campaign_number, campaign_name, status, a1_retry_count, a1_permanently_failed,
       a1_last_retry_at, a1_failure_reason
FROM campaign_status
WHERE campaign_id = :'campaign_id';
