-- The history of one campaign, oldest first:  psql -v campaign_id=… -f database/queries/history.sql
SELECT at, kind, cycle, actor, source, reason, detail
FROM campaign_events
WHERE campaign_id = :'campaign_id'
ORDER BY id;
