-- Let campaigns start again at attempt 1. This is the only copy of the statement: the tool and the uploader run it,
-- e-mails show it, and psql runs it by reset_one.sql, reset_all_failed.sql and reset_digest.sql.
UPDATE campaign_status
SET a1_retry_count = 0, a1_last_retry_at = NULL, a1_permanently_failed = FALSE, a1_failure_reason = NULL,
    updated_at = now()
WHERE campaign_id = ANY (:'ids'::text[])
RETURNING campaign_id, campaign_number, campaign_name, status;
