-- Every notice in one digest e-mail:  psql -v mail=ID -f database/queries/digest.sql
SELECT n.campaign_id, n.campaign_number, n.campaign_name, n.attempt, n.max_attempts, n.detail, n.created_at,
       d.recipient, d.sent_at
FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
WHERE d.mail_id = (:'mail')::uuid
ORDER BY n.created_at, n.campaign_id;
