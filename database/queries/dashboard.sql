-- The state of the A1 campaigns in one line:  psql -f database/queries/dashboard.sql
-- Also -v status_a1=CODE -v status_a2=CODE, if DAM_STATUS_A1 and DAM_STATUS_A2 are not A1 and A2.
\if :{?status_a1} \else \set status_a1 A1 \endif
\if :{?status_a2} \else \set status_a2 A2 \endif
SELECT count(*) FILTER (WHERE status = :'status_a1') AS in_a1,
       count(*) FILTER (WHERE status = :'status_a1' AND a1_retry_count > 0
                          AND a1_permanently_failed IS NOT TRUE) AS retrying,
       count(*) FILTER (WHERE a1_permanently_failed) AS permanently_failed,
       count(*) FILTER (WHERE status = :'status_a2') AS in_a2,
       max(a1_last_retry_at) AS last_attempt_at
FROM campaign_status;
