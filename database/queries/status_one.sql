-- One campaign, and the error it fails with, if any:  psql -v campaign_id=… -f database/queries/status_one.sql
SELECT asked.campaign_id, s.campaign_number, s.campaign_name, s.status, s.a1_retry_count, s.a1_permanently_failed,
       s.a1_last_retry_at, s.a1_failure_reason, e.began_at AS error_since, e.last_seen_at AS error_seen_at,
       e.kind AS error_kind, e.message AS error
FROM (SELECT :'campaign_id'::text AS campaign_id) asked
LEFT JOIN campaign_status s ON s.campaign_id = asked.campaign_id
LEFT JOIN LATERAL (SELECT * FROM campaign_errors WHERE campaign_id = asked.campaign_id
                   ORDER BY last_seen_at DESC LIMIT 1) e ON TRUE
WHERE s.campaign_id IS NOT NULL OR e.campaign_id IS NOT NULL;
