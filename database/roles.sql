-- Grants the role of the scripts the right to read and write what they need; it cannot create, alter or drop
-- anything. The owner of the database and its tables (who also runs the migrations) runs this file after each upgrade;
-- a second time changes nothing. It creates a missing role, for which the owner needs CREATEROLE; otherwise somebody
-- must create the role first.
--
--   psql -v ON_ERROR_STOP=1 -v role=a1_to_a2 -d ferrero_tracking -f database/roles.sql
--
-- Also -v page_role=a1_to_a2_page, if the operator's page runs: its role reads, and changes only what people change
-- by acts. It must be another role.
--
-- The tables may be in any schema: the one on the search_path, else the only schema that contains them.
-- Set the password separately, so that it is in no file and no process list: psql, then \password a1_to_a2

\set ON_ERROR_STOP on

\if :{?page_role} \else \set page_role '' \endif

SELECT set_config('a1_to_a2.role', :'role', FALSE) AS role,
       set_config('a1_to_a2.page_role', :'page_role', FALSE) AS page_role, :'page_role' <> '' AS has_page \gset

DO $$
DECLARE
    held_in text[];
    is_seen boolean;
BEGIN
    IF current_setting('a1_to_a2.role') = current_setting('a1_to_a2.page_role') THEN
        RAISE EXCEPTION 'nothing is granted: role and page_role are both %', current_setting('a1_to_a2.role')
            USING HINT = 'The page needs a role of its own, with fewer rights: -v page_role=a1_to_a2_page.';
    END IF;
    SELECT array_agg(n.nspname::text ORDER BY array_position(current_schemas(FALSE), n.nspname)),
           bool_or(n.nspname = ANY (current_schemas(FALSE)))
    INTO held_in, is_seen
    FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid
    WHERE c.relname = 'campaign_status' AND c.relkind IN ('r', 'p')
      AND EXISTS (SELECT FROM pg_class m JOIN pg_attribute a ON a.attrelid = m.oid AND a.attname = 'sha256'
                  WHERE m.relnamespace = n.oid AND m.relname = 'schema_migrations');
    IF held_in IS NULL THEN
        RAISE EXCEPTION 'nothing is granted: the database % has no table campaign_status', current_database()
            USING HINT = 'Apply the migrations first (python scripts/migrate.py), or name the right database with -d.';
    ELSIF cardinality(held_in) > 1 AND NOT is_seen THEN
        RAISE EXCEPTION 'nothing is granted: the schemas % all contain a campaign_status', array_to_string(held_in, ', ')
            USING HINT = 'Name one: PGOPTIONS="-c search_path=SCHEMA" psql ... -f database/roles.sql';
    END IF;
    PERFORM set_config('search_path', quote_ident(held_in[1]), FALSE);
    -- For a GRANT without the right to grant, PostgreSQL only gives a warning.
    IF has_table_privilege(current_user, to_regclass('campaign_status'), 'UPDATE WITH GRANT OPTION') IS NOT TRUE THEN
        RAISE EXCEPTION 'nothing is granted: % may not grant on the tables in the schema %', current_user, held_in[1]
            USING HINT = 'Run this file as their owner.';
    END IF;
END
$$;

SELECT format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION', :'role')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec

SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'role') \gexec

-- Before PostgreSQL 15 everybody may make tables in schema public.
SELECT format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC, %I', nspname, :'role')
FROM pg_namespace WHERE nspname IN ('public', current_schema()) \gexec
SELECT format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), :'role') \gexec
SELECT format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %I', current_schema(), :'role') \gexec

GRANT SELECT ON schema_migrations TO :"role";
GRANT SELECT, INSERT, UPDATE ON campaign_status, campaign_assets, rate_buckets, notice_deliveries,
    campaign_uploads, run_epochs, campaign_epochs, metric_totals, webhook_targets TO :"role";
GRANT SELECT, INSERT, UPDATE, DELETE ON campaign_errors, upload_sessions, orchestrator_task_runs,
    orchestrator_task_alerts, workers, worker_campaigns TO :"role";
-- Rows that are never changed.
GRANT SELECT, INSERT ON notices, daily_reports TO :"role";
-- Old rows are removed (scripts/shared/upkeep/retention.py); deliveries are removed with their notice.
GRANT DELETE ON notices, campaign_assets, campaign_uploads, daily_reports TO :"role";
-- A later notice replaces one that has not been sent yet.
GRANT DELETE ON notice_deliveries TO :"role";
GRANT UPDATE (folded_into) ON notices TO :"role";
-- Triggers write the history, with the rights of their owner.
GRANT SELECT, DELETE ON campaign_events TO :"role";
-- The page writes its acts as its own role; a run removes the old ones.
GRANT SELECT, DELETE ON page_acts, page_act_campaigns, page_sessions TO :"role";

-- Needed if default privileges do not grant it to everybody.
GRANT EXECUTE ON FUNCTION hold_run(INTEGER, BIGINT), hold_campaign(TEXT, BIGINT) TO :"role";

-- The tables of the engine, if database/engine/ has been applied: workers use them, and the page may read the queue.
SELECT format('GRANT SELECT, INSERT, UPDATE, DELETE ON procrastinate_jobs, procrastinate_events, procrastinate_workers,'
              ' procrastinate_periodic_defers TO %I', :'role')
WHERE to_regclass('procrastinate_jobs') IS NOT NULL \gexec

-- The sequences that fill columns of these tables, for example an id SERIAL that is older than the product.
SELECT DISTINCT format('GRANT USAGE ON SEQUENCE %s TO %I', s.oid::regclass, :'role')
FROM pg_class c
JOIN pg_attrdef f ON f.adrelid = c.oid
JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
WHERE c.relnamespace = current_schema()::regnamespace AND has_table_privilege(:'role', c.oid, 'INSERT') \gexec

\if :has_page
SELECT format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION', :'page_role')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'page_role') \gexec

SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'page_role') \gexec
SELECT format('REVOKE CREATE ON SCHEMA %I FROM %I', nspname, :'page_role')
FROM pg_namespace WHERE nspname IN ('public', current_schema()) \gexec
SELECT format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), :'page_role') \gexec
SELECT format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %I', current_schema(), :'page_role') \gexec

GRANT SELECT ON schema_migrations, campaign_status, campaign_assets, campaign_uploads, campaign_errors,
    campaign_events, campaign_epochs, upload_sessions, notices, notice_deliveries, orchestrator_task_runs,
    orchestrator_task_alerts, daily_reports, rate_buckets, run_epochs, metric_totals,
    webhook_targets, workers, worker_campaigns TO :"page_role";
SELECT format('GRANT SELECT ON procrastinate_jobs, procrastinate_events TO %I', :'page_role')
WHERE to_regclass('procrastinate_jobs') IS NOT NULL \gexec
-- Reset, snooze, wake, limit, and the undo of each.
GRANT UPDATE (a1_retry_count, a1_last_retry_at, a1_permanently_failed, a1_failure_reason, a1_max_retries,
              a1_snoozed_until, a1_cycle, a1_auto_resets, updated_at) ON campaign_status TO :"page_role";
-- Sending an e-mail again.
GRANT UPDATE (tries, doubts, next_try_at, gave_up_at, owed_since, late_told_at) ON notice_deliveries
    TO :"page_role";
GRANT SELECT, INSERT ON page_acts, page_act_campaigns TO :"page_role";
GRANT UPDATE (done, skipped, undone_at, undone_by, undone_from, undo_reason, undo_done, undo_skipped) ON page_acts
    TO :"page_role";
GRANT SELECT, INSERT, UPDATE, DELETE ON page_sessions TO :"page_role";
\endif

DO $$
DECLARE
    the_role text;
BEGIN
    FOREACH the_role IN ARRAY array_remove(ARRAY[current_setting('a1_to_a2.role'),
                                                 current_setting('a1_to_a2.page_role')], '')
    LOOP
        BEGIN
            IF NOT has_schema_privilege(the_role, current_schema(), 'USAGE') THEN
                RAISE EXCEPTION 'the role % has no USAGE on the schema %', the_role, current_schema()
                    USING HINT = 'Run this file as the owner of the schema.';
            END IF;
            -- The role's sessions must find a schema other than public, unless their search_path is already set.
            IF current_schema() <> 'public' AND NOT EXISTS (
                SELECT FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) AS one
                WHERE one LIKE 'search_path=%'
                  AND (s.setrole = 0 OR s.setrole = (SELECT r.oid FROM pg_roles r WHERE r.rolname = the_role))
                  AND (s.setdatabase = 0 OR s.setdatabase = (SELECT b.oid FROM pg_database b WHERE b.datname = current_database())))
            THEN
                EXECUTE format('ALTER ROLE %I IN DATABASE %I SET search_path = %I', the_role, current_database(), current_schema());
            END IF;
        EXCEPTION
            WHEN insufficient_privilege THEN
                RAISE WARNING 'ask somebody with CREATEROLE to run: ALTER ROLE % IN DATABASE % SET search_path = %',
                    quote_ident(the_role), quote_ident(current_database()), quote_ident(current_schema());
        END;
    END LOOP;
END
$$;
