-- E-mails that someone has not received, webhooks that a target has not received, and why.
SELECT n.created_at, d.channel, n.id::text AS notice_id, n.kind, n.campaign_id, d.recipient, d.tries, d.next_try_at, d.gave_up_at, d.last_error,
       n.subject
FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
WHERE d.sent_at IS NULL
ORDER BY n.created_at, d.recipient;
