-- The state of the A1 campaigns in one line.
SELECT count(*) FILTER (WHERE status = 'A1') AS in_a1,
       count(*) FILTER (WHERE status = 'A1' AND a1_retry_count > 0 AND NOT a1_permanently_failed) AS retrying,
       count(*) FILTER (WHERE a1_permanently_failed) AS permanently_failed,
       count(*) FILTER (WHERE status = 'A2') AS in_a2,
       max(a1_last_retry_at) AS last_attempt_at
FROM campaign_status;
