-- Let one campaign start again at attempt 1:  psql -v campaign_id=… -f database/queries/reset_one.sql
SELECT coalesce(array_agg(campaign_id), '{}') AS ids, coalesce(array_agg(a1_last_retry_at), '{}') AS seen,
       session_user AS who, 'psql' AS source, '' AS reason
FROM campaign_status
WHERE campaign_id = :'campaign_id' AND (a1_retry_count > 0 OR a1_permanently_failed) \gset
\ir reset_by_psql.sql
