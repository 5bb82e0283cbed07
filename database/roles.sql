-- The role that the scripts run as: it reads and writes what they read and write, and can make, alter and drop
-- nothing. Run by the owner of the database and its tables (who also runs the migrations) after each upgrade; twice
-- changes nothing. A role that is missing is made, for which the owner needs CREATEROLE; else have it made before.
--
--   psql -v ON_ERROR_STOP=1 -v role=a1_to_a2 -d ferrero_tracking -f database/roles.sql
--
-- The password is set apart, so that it stands in no file and no process list: psql, then \password a1_to_a2

SELECT format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION', :'role')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec

SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'role') \gexec

-- Before PostgreSQL 15 everybody may make tables in schema public.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
REVOKE CREATE ON SCHEMA public FROM :"role";
GRANT USAGE ON SCHEMA public TO :"role";
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM :"role";

GRANT SELECT ON schema_migrations TO :"role";
GRANT SELECT, INSERT, UPDATE ON campaign_status, campaign_assets, rate_buckets, notice_deliveries,
    campaign_uploads, run_epochs, notice_bundles TO :"role";
GRANT SELECT, INSERT, UPDATE, DELETE ON campaign_errors, upload_sessions, orchestrator_task_runs,
    orchestrator_task_alerts TO :"role";
-- What has been said or done once stays as it is, for as long as it is kept.
GRANT SELECT, INSERT ON notices, a1_resets, daily_reports TO :"role";
-- What is older than its stated life is removed (scripts/shared/retention.py); deliveries go with their notice.
GRANT DELETE ON notices, notice_bundles, campaign_assets, campaign_uploads, daily_reports, a1_resets TO :"role";
