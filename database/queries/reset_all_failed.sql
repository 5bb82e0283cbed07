-- Let every permanently failed campaign start again at attempt 1:  psql -f database/queries/reset_all_failed.sql
SELECT coalesce(array_agg(campaign_id), '{}') AS ids, coalesce(array_agg(a1_last_retry_at), '{}') AS seen,
       session_user AS who, 'psql' AS source, '' AS reason
FROM campaign_status WHERE a1_permanently_failed \gset
\ir reset_by_psql.sql
