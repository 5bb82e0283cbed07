-- Try the failed campaigns that one e-mail with a table named again from attempt 1:
--   psql -v mail=ID -f database/queries/reset_digest.sql
UPDATE campaign_status
SET a1_retry_count = 0, a1_last_retry_at = NULL, a1_permanently_failed = FALSE, a1_failure_reason = NULL,
    updated_at = now()
WHERE a1_permanently_failed
  AND campaign_id IN (SELECT n.campaign_id FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
                      WHERE d.mail_id = (:'mail')::uuid)
RETURNING campaign_id, campaign_number, campaign_name;
