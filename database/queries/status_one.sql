-- One campaign, in any state:  psql -v campaign_id=… -f database/queries/status_one.sql
SELECT ARRAY[:'campaign_id'] AS ids \gset
\ir status_all.sql
