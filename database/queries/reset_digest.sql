-- Let the failed campaigns of one digest e-mail start again at attempt 1:
--   psql -v mail=ID -f database/queries/reset_digest.sql
SELECT coalesce(array_agg(campaign_id), '{}') AS ids, coalesce(array_agg(a1_last_retry_at), '{}') AS seen,
       session_user AS who, 'psql' AS source, '' AS reason
FROM campaign_status
WHERE a1_permanently_failed
  AND campaign_id IN (SELECT n.campaign_id FROM notice_deliveries d JOIN notices n ON n.id = d.notice_id
                      WHERE d.mail_id = (:'mail')::uuid) \gset
\ir reset_by_psql.sql
