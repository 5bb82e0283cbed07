-- Every campaign that has spent an attempt or fails with an error, the newest first.
SELECT listed.campaign_id, s.campaign_number, s.campaign_name, s.status, s.a1_retry_count, s.a1_permanently_failed,
       s.a1_last_retry_at, s.a1_failure_reason, e.began_at AS error_since, e.last_seen_at AS error_seen_at,
       e.kind AS error_kind, e.message AS error
FROM (SELECT campaign_id FROM campaign_status WHERE a1_retry_count > 0 OR a1_permanently_failed
      UNION SELECT campaign_id FROM campaign_errors) listed
LEFT JOIN campaign_status s ON s.campaign_id = listed.campaign_id
LEFT JOIN LATERAL (SELECT * FROM campaign_errors WHERE campaign_id = listed.campaign_id
                   ORDER BY last_seen_at DESC LIMIT 1) e ON TRUE
ORDER BY greatest(s.a1_last_retry_at, e.last_seen_at) DESC NULLS LAST, listed.campaign_id;
