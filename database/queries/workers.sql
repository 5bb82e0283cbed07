-- The workers that run (only with ENGINE=procrastinate), and the campaigns that each of them has, since when: one row
-- per worker and campaign, and one for a worker that has none. lost: not seen for 2 minutes, so it was killed or frozen,
-- or its host is down; it is not listed once a newer one of its host has replaced it. trouble: why it could work on no
-- campaign lately.
--   psql -f database/queries/workers.sql
SELECT w.worker, w.host,
       CASE WHEN w.seen_at < now() - interval '2 minutes' THEN 'lost'
            WHEN w.drain_asked_at IS NOT NULL THEN 'draining'
            ELSE 'working' END AS state,
       w.started_at, w.seen_at, w.campaigns_at_once, w.drain_asked_at, w.drain_asked_by, w.trouble, w.trouble_at,
       c.campaign_id, s.campaign_number, s.campaign_name, c.since
FROM workers w
LEFT JOIN worker_campaigns c ON c.worker = w.worker
LEFT JOIN LATERAL (SELECT campaign_number, campaign_name FROM campaign_status
                   WHERE campaign_id = c.campaign_id LIMIT 1) s ON TRUE
WHERE NOT (w.seen_at < now() - interval '2 minutes'
           AND EXISTS (SELECT FROM workers n
                       WHERE n.host = w.host AND n.worker <> w.worker AND n.started_at > w.seen_at))
ORDER BY w.host, w.started_at, w.worker, c.since, c.campaign_id;
