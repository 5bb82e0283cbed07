-- Checks whether the product can work with this database: one row for each difference, with its remedy.
-- No row: all is well. It writes nothing, so it also works on a standby.
--
--   psql -v ON_ERROR_STOP=1 -f database/queries/preflight.sql
--
-- Run it as the role of the scripts: rights and search_path are those of the session. Also
-- -v status_a1=... -v status_a2=... -v max_retries=..., if DAM_STATUS_A1, DAM_STATUS_A2 or A1_MAX_RETRIES are set.
--   fault    a statement of the product fails, for all campaigns or for some
--   passing  nothing can be written until this is over; it will probably end by itself
--   warning  the product works; something here may refuse or change single values
\if :{?status_a1} \else \set status_a1 A1 \endif
\if :{?status_a2} \else \set status_a2 A2 \endif
\if :{?max_retries} \else \set max_retries 3 \endif
\set QUIET on

SET a1_to_a2.status_a1 = :'status_a1';
SET a1_to_a2.status_a2 = :'status_a2';
SET a1_to_a2.max_retries = :'max_retries';

-- Some faults can only be found by trying: rows like those of the product, against each CHECK of campaign_status
-- (the one table that may be older than the product), and ids in several rows. A setting of this session passes
-- the answers to the SELECT below.
DO $$
DECLARE
    the_table CONSTANT regclass := to_regclass('campaign_status');
    base CONSTANT jsonb := jsonb_build_object(
        'campaign_id', repeat('0a', 20), 'campaign_number', 'C-1001', 'campaign_name', 'Summer',
        'status', current_setting('a1_to_a2.status_a1'), 'created_at', now(), 'updated_at', now(),
        'a1_retry_count', 0, 'a1_permanently_failed', FALSE);
    found jsonb := '[]';
    tried record;
    refuses boolean;
    faults text;
    warnings text;
    trouble text;
    ids text;
BEGIN
    PERFORM set_config('transaction_read_only', 'on', TRUE);
    FOR tried IN
        SELECT c.conname, pg_get_expr(c.conbin, c.conrelid) AS expression,
               pg_get_constraintdef(c.oid) AS definition
        FROM pg_catalog.pg_constraint c
        WHERE c.conrelid = the_table AND c.contype = 'c'
          AND coalesce((to_jsonb(c) ->> 'conenforced')::boolean, TRUE) -- PostgreSQL 18
        UNION ALL
        SELECT NULL, 'TRUE', NULL -- the row alone: the domains of its columns
        WHERE EXISTS (SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
                      WHERE a.attrelid = the_table AND a.attnum > 0 AND t.typtype = 'd')
    LOOP
        faults := NULL;
        warnings := NULL;
        trouble := NULL;
        DECLARE
            sample record;
        BEGIN
            FOR sample IN
                SELECT s.severity, s.label, base || s.change AS written
                FROM (VALUES
                    ('fault', format('status %L', current_setting('a1_to_a2.status_a1')), '{}'::jsonb),
                    ('fault', format('status %L', current_setting('a1_to_a2.status_a2')),
                     jsonb_build_object('status', current_setting('a1_to_a2.status_a2'))),
                    ('fault', 'status ''GONE''', '{"status": "GONE"}'),
                    ('fault', 'a first attempt',
                     jsonb_build_object('a1_retry_count', 1, 'a1_last_retry_at', now(),
                                        'a1_failure_reason', 'No assets found',
                                        'a1_permanently_failed',
                                        current_setting('a1_to_a2.max_retries')::int <= 1)),
                    ('fault', format('a1_retry_count %s', current_setting('a1_to_a2.max_retries')),
                     jsonb_build_object('a1_retry_count', current_setting('a1_to_a2.max_retries')::int,
                                        'a1_last_retry_at', now(), 'a1_failure_reason', 'No assets found',
                                        'a1_permanently_failed', TRUE)),
                    ('fault', 'a box_folder_id with an a2_requested_at',
                     jsonb_build_object('box_folder_id', '123456789012', 'a2_requested_at', now())),
                    ('warning', 'another status of the DAM', '{"status": "Production (pending review)"}'),
                    ('warning', 'no status', '{"status": null}'),
                    ('warning', 'a1_retry_count 1000 (the most that A1_MAX_RETRIES can be)',
                     jsonb_build_object('a1_retry_count', 1000, 'a1_last_retry_at', now(),
                                        'a1_failure_reason', 'No assets found', 'a1_permanently_failed', TRUE)),
                    ('warning', 'a campaign_name of 255 characters',
                     jsonb_build_object('campaign_name', repeat('Summer ', 37))),
                    ('warning', 'a campaign_name with characters outside ASCII',
                     jsonb_build_object('campaign_name', CASE WHEN pg_catalog.getdatabaseencoding() = 'UTF8'
                                                              THEN 'Gr' || chr(252) || chr(223) || 'e'
                                                                   || chr(127881) ELSE 'Summer' END)),
                    ('warning', 'no campaign_number', '{"campaign_number": ""}'),
                    ('warning', 'a campaign_id in upper case',
                     jsonb_build_object('campaign_id', repeat('0A', 20)))
                ) AS s (severity, label, change)
            LOOP
                BEGIN
                    EXECUTE format('SELECT (%s) IS FALSE FROM jsonb_populate_record(NULL::%s, $1) AS campaign_status',
                                   tried.expression, the_table) INTO refuses USING sample.written;
                EXCEPTION
                    WHEN check_violation OR not_null_violation THEN -- of a domain
                        refuses := tried.conname IS NULL;
                    WHEN OTHERS THEN
                        refuses := FALSE;
                        trouble := SQLERRM;
                END;
                IF refuses AND sample.severity = 'fault' THEN
                    faults := concat_ws(', ', faults, sample.label);
                ELSIF refuses THEN
                    warnings := concat_ws(', ', warnings, sample.label);
                END IF;
            END LOOP;
        END;
        IF tried.conname IS NULL AND coalesce(faults, warnings) IS NOT NULL THEN
            found := found || jsonb_build_object(
                'severity', CASE WHEN faults IS NULL THEN 'warning' ELSE 'fault' END,
                'what', format('the domain of a column of campaign_status refuses %s', concat_ws(', ', faults, warnings)),
                'cure', (SELECT format('ALTER TABLE campaign_status %s',
                                       string_agg(format('ALTER COLUMN %I TYPE %s', a.attname,
                                                         format_type(t.typbasetype, t.typtypmod)), ', '))
                         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
                         WHERE a.attrelid = the_table AND a.attnum > 0 AND t.typtype = 'd'));
        ELSIF coalesce(faults, warnings) IS NOT NULL THEN
            found := found || jsonb_build_object(
                'severity', CASE WHEN faults IS NULL THEN 'warning' ELSE 'fault' END,
                'what', format('campaign_status has the constraint %I, %s, which refuses %s',
                               tried.conname, tried.definition, concat_ws(', ', faults, warnings)),
                'cure', format('ALTER TABLE campaign_status DROP CONSTRAINT %I; or change it so that it allows these',
                               tried.conname));
        ELSIF tried.conname IS NOT NULL AND trouble IS NOT NULL THEN
            found := found || jsonb_build_object(
                'severity', 'warning',
                'what', format('campaign_status has the constraint %I, %s, which could not be tested (%s)',
                               tried.conname, tried.definition, trouble),
                'cure', 'check whether it allows each status, name and count that the product writes');
        END IF;
    END LOOP;
    PERFORM set_config('a1_to_a2.found', found::text, FALSE);

    IF the_table IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = the_table AND i.indisunique AND i.indisvalid AND i.indnkeyatts = 1
          AND i.indpred IS NULL AND a.attname = 'campaign_id')
    THEN
        BEGIN
            EXECUTE format(
                'SELECT string_agg(shown, '', '' ORDER BY place) FROM (SELECT'
                ' CASE WHEN row_number() OVER w < 6 THEN format(''%%L (%%s rows)'', campaign_id::text, count(*))'
                '      ELSE format(''%%s more'', count(*) OVER () - 5) END AS shown, row_number() OVER w AS place'
                ' FROM %s GROUP BY campaign_id HAVING count(campaign_id) > 1'
                ' WINDOW w AS (ORDER BY campaign_id)) twice WHERE place < 7', the_table) INTO ids;
        EXCEPTION
            WHEN OTHERS THEN NULL; -- no right to read, or no such column: reported below
        END;
    END IF;
    PERFORM set_config('a1_to_a2.duplicates', coalesce(ids, ''), FALSE);
END
$$;

WITH needed_tables (name, migration, rights) AS (VALUES
    ('schema_migrations', '001_create_campaign_status', 'SELECT'),
    ('campaign_status', '001_create_campaign_status', 'SELECT, INSERT, UPDATE'),
    ('campaign_assets', '002_create_campaign_assets', 'SELECT, INSERT, UPDATE, DELETE'),
    ('notices', '004_create_outbox', 'SELECT, INSERT, DELETE'),
    ('notice_deliveries', '004_create_outbox', 'SELECT, INSERT, UPDATE, DELETE'),
    ('campaign_errors', '005_create_campaign_errors', 'SELECT, INSERT, UPDATE, DELETE'),
    ('orchestrator_task_runs', '008_create_orchestrator_task_runs', 'SELECT, INSERT, UPDATE, DELETE'),
    ('orchestrator_task_alerts', '009_create_task_alerts_and_daily_reports', 'SELECT, INSERT, DELETE'),
    ('daily_reports', '009_create_task_alerts_and_daily_reports', 'SELECT, INSERT, DELETE'),
    ('upload_sessions', '010_create_upload_sessions', 'SELECT, INSERT, UPDATE, DELETE'),
    ('rate_buckets', '011_create_rate_buckets', 'SELECT, INSERT, UPDATE'),
    ('campaign_uploads', '014_create_campaign_uploads', 'SELECT, INSERT, UPDATE, DELETE'),
    ('run_epochs', '015_create_run_epochs', 'SELECT, INSERT, UPDATE'),
    ('campaign_epochs', '021_create_campaign_epochs', 'SELECT, INSERT, UPDATE'),
    ('campaign_events', '023_create_campaign_events', 'SELECT, DELETE'),
    -- the operator's page writes these, as another role; a run removes the old rows
    ('page_acts', '024_create_page_acts', 'SELECT, DELETE'),
    ('page_act_campaigns', '024_create_page_acts', 'SELECT, DELETE'),
    ('page_sessions', '024_create_page_acts', 'SELECT, DELETE'),
    ('metric_totals', '025_create_metric_totals', 'SELECT, INSERT, UPDATE'),
    ('webhook_targets', '027_create_webhook_targets', 'SELECT, INSERT, UPDATE'),
    ('workers', '028_create_workers', 'SELECT, INSERT, UPDATE, DELETE'),
    ('worker_campaigns', '028_create_workers', 'SELECT, INSERT, UPDATE, DELETE')
),

-- Every column, as the migrations make it.
--   least   for a text: how many characters it must store (NULL: 1000); for an integer: its least size in bytes
--   filled  'value': each INSERT gives one. 'null': NULL is written too. 'default': an INSERT leaves it out, and it
--           is never NULL. 'never': only the database fills it
--   since   the migration, if it is not the one that makes the table
needed_columns (table_name, name, type, least, filled, since) AS (VALUES
    ('schema_migrations', 'name', 'text', 60, 'value', ''),
    ('schema_migrations', 'applied_at', 'timestamp with time zone', NULL, 'default', ''),
    ('schema_migrations', 'sha256', 'text', 64, 'null', ''),
    ('campaign_status', 'campaign_id', 'text', 40, 'value', ''),
    ('campaign_status', 'campaign_number', 'text', 50, 'value', ''),
    ('campaign_status', 'campaign_name', 'text', 255, 'value', ''),
    ('campaign_status', 'status', 'text', 50, 'null', ''),
    ('campaign_status', 'created_at', 'timestamp with time zone', NULL, 'default', ''),
    ('campaign_status', 'updated_at', 'timestamp with time zone', NULL, 'default', ''),
    ('campaign_status', 'a1_retry_count', 'integer', 2, 'default', '003_add_a1_retry_tracking'),
    ('campaign_status', 'a1_last_retry_at', 'timestamp with time zone', NULL, 'null', '003_add_a1_retry_tracking'),
    ('campaign_status', 'a1_permanently_failed', 'boolean', NULL, 'default', '003_add_a1_retry_tracking'),
    ('campaign_status', 'a1_failure_reason', 'text', 255, 'null', '003_add_a1_retry_tracking'),
    ('campaign_status', 'box_folder_id', 'text', 20, 'null', '006_add_transfer_tracking'),
    ('campaign_status', 'a2_requested_at', 'timestamp with time zone', NULL, 'null', '006_add_transfer_tracking'),
    ('campaign_status', 'left_search_at', 'timestamp with time zone', NULL, 'null', '006_add_transfer_tracking'),
    ('campaign_status', 'lock_doubted_at', 'timestamp with time zone', NULL, 'null', '017_add_lock_doubt'),
    ('campaign_status', 'a1_max_retries', 'integer', 2, 'null', '023_create_campaign_events'),
    ('campaign_status', 'a1_snoozed_until', 'timestamp with time zone', NULL, 'null', '023_create_campaign_events'),
    ('campaign_status', 'a1_cycle', 'integer', 4, 'default', '023_create_campaign_events'),
    ('campaign_status', 'a1_auto_resets', 'integer', 2, 'default', '023_create_campaign_events'),
    ('campaign_assets', 'campaign_id', 'text', 40, 'value', ''),
    ('campaign_assets', 'asset_id', 'text', 40, 'value', ''),
    ('campaign_assets', 'asset_name', 'text', NULL, 'value', ''),
    ('campaign_assets', 'revision', 'text', NULL, 'value', ''),
    ('campaign_assets', 'size_bytes', 'bigint', 8, 'value', ''),
    ('campaign_assets', 'sha1', 'text', 40, 'value', ''),
    ('campaign_assets', 'box_file_id', 'text', 20, 'value', ''),
    ('campaign_assets', 'box_name', 'text', 255, 'value', ''),
    ('campaign_assets', 'verified_at', 'timestamp with time zone', NULL, 'default', ''),
    ('campaign_assets', 'run_id', 'text', 36, 'value', ''),
    ('notices', 'id', 'uuid', NULL, 'value', ''),
    ('notices', 'kind', 'text', 50, 'value', ''),
    ('notices', 'campaign_id', 'text', 40, 'value', ''),
    ('notices', 'subject', 'text', NULL, 'value', ''),
    ('notices', 'body_text', 'text', NULL, 'value', ''),
    ('notices', 'body_html', 'text', NULL, 'value', ''),
    ('notices', 'created_at', 'timestamp with time zone', NULL, 'value', ''),
    ('notices', 'campaign_number', 'text', 50, 'null', '016_create_notice_bundles'),
    ('notices', 'campaign_name', 'text', 255, 'null', '016_create_notice_bundles'),
    ('notices', 'attempt', 'integer', 2, 'null', '016_create_notice_bundles'),
    ('notices', 'max_attempts', 'integer', 2, 'null', '016_create_notice_bundles'),
    ('notices', 'detail', 'text', NULL, 'null', '016_create_notice_bundles'),
    ('notices', 'cycle', 'integer', 4, 'null', '023_create_campaign_events'),
    ('notices', 'folded_into', 'uuid', NULL, 'null', '023_create_campaign_events'),
    ('notices', 'dedup_key', 'text', 200, 'null', '027_create_webhook_targets'),
    ('notice_deliveries', 'notice_id', 'uuid', NULL, 'value', ''),
    ('notice_deliveries', 'recipient', 'text', 254, 'value', ''),
    ('notice_deliveries', 'tries', 'integer', 4, 'default', ''),
    ('notice_deliveries', 'next_try_at', 'timestamp with time zone', NULL, 'value', ''),
    ('notice_deliveries', 'sent_at', 'timestamp with time zone', NULL, 'null', ''),
    ('notice_deliveries', 'gave_up_at', 'timestamp with time zone', NULL, 'null', ''),
    ('notice_deliveries', 'last_error', 'text', NULL, 'null', ''),
    ('notice_deliveries', 'mail_id', 'uuid', NULL, 'null', '016_create_notice_bundles'),
    ('notice_deliveries', 'doubts', 'integer', 4, 'default', '019_count_handovers'),
    ('notice_deliveries', 'late_told_at', 'timestamp with time zone', NULL, 'null', '019_count_handovers'),
    ('notice_deliveries', 'owed_since', 'timestamp with time zone', NULL, 'null', '023_create_campaign_events'),
    ('notice_deliveries', 'channel', 'text', 10, 'default', '027_create_webhook_targets'),
    ('notice_deliveries', 'ticket', 'text', 200, 'null', '027_create_webhook_targets'),
    ('campaign_errors', 'campaign_id', 'text', 40, 'value', ''),
    ('campaign_errors', 'kind', 'text', 255, 'value', ''),
    ('campaign_errors', 'message', 'text', NULL, 'value', ''),
    ('campaign_errors', 'began_at', 'timestamp with time zone', NULL, 'default', ''),
    ('campaign_errors', 'last_seen_at', 'timestamp with time zone', NULL, 'default', ''),
    ('campaign_errors', 'last_notice_at', 'timestamp with time zone', NULL, 'default', ''),
    ('orchestrator_task_runs', 'run_id', 'text', 36, 'value', ''),
    ('orchestrator_task_runs', 'task', 'text', 50, 'value', ''),
    ('orchestrator_task_runs', 'planned_at', 'timestamp with time zone', NULL, 'value', ''),
    ('orchestrator_task_runs', 'started_at', 'timestamp with time zone', NULL, 'value', ''),
    ('orchestrator_task_runs', 'finished_at', 'timestamp with time zone', NULL, 'null', ''),
    ('orchestrator_task_runs', 'exit_code', 'integer', 2, 'null', ''),
    ('orchestrator_task_runs', 'ending', 'text', 255, 'null', ''),
    ('orchestrator_task_runs', 'host', 'text', 255, 'value', ''),
    ('orchestrator_task_alerts', 'task', 'text', 50, 'value', ''),
    ('orchestrator_task_alerts', 'ending', 'text', 255, 'value', ''),
    ('orchestrator_task_alerts', 'failures', 'integer', 4, 'value', ''),
    ('orchestrator_task_alerts', 'began_at', 'timestamp with time zone', NULL, 'value', ''),
    ('orchestrator_task_alerts', 'is_announced', 'boolean', NULL, 'value', ''),
    ('orchestrator_task_alerts', 'last_notice_at', 'timestamp with time zone', NULL, 'null', ''),
    ('daily_reports', 'report_date', 'date', NULL, 'value', ''),
    ('daily_reports', 'notice_id', 'uuid', NULL, 'value', ''),
    ('daily_reports', 'queued_at', 'timestamp with time zone', NULL, 'value', ''),
    ('upload_sessions', 'campaign_id', 'text', 40, 'value', ''),
    ('upload_sessions', 'asset_id', 'text', 40, 'value', ''),
    ('upload_sessions', 'session_id', 'text', 255, 'value', ''),
    ('upload_sessions', 'revision', 'text', NULL, 'value', ''),
    ('upload_sessions', 'size_bytes', 'bigint', 8, 'value', ''),
    ('upload_sessions', 'folder_id', 'text', 20, 'value', ''),
    ('upload_sessions', 'replaces', 'text', 20, 'null', ''),
    ('upload_sessions', 'created_at', 'timestamp with time zone', NULL, 'default', ''),
    ('upload_sessions', 'run_id', 'text', 36, 'value', ''),
    ('rate_buckets', 'bucket', 'text', 100, 'value', ''),
    ('rate_buckets', 'second', 'bigint', 8, 'default', ''),
    ('rate_buckets', 'counts', 'integer[]', NULL, 'default', ''),
    ('rate_buckets', 'paused_until', 'double precision', NULL, 'default', ''),
    ('campaign_uploads', 'campaign_id', 'text', 40, 'value', ''),
    ('campaign_uploads', 'completed_at', 'timestamp with time zone', NULL, 'default', ''),
    ('campaign_uploads', 'started_at', 'timestamp with time zone', NULL, 'value', ''),
    ('campaign_uploads', 'assets', 'integer', 4, 'value', ''),
    ('campaign_uploads', 'bytes', 'bigint', 8, 'value', ''),
    ('campaign_uploads', 'run_id', 'text', 36, 'value', ''),
    ('campaign_uploads', 'report_date', 'date', NULL, 'null', ''),
    ('run_epochs', 'lock', 'integer', 4, 'value', ''),
    ('run_epochs', 'epoch', 'bigint', 8, 'value', ''),
    ('run_epochs', 'holder', 'text', 63, 'value', ''),
    ('run_epochs', 'taken_at', 'timestamp with time zone', NULL, 'value', ''),
    ('campaign_epochs', 'campaign_id', 'text', 40, 'value', ''),
    ('campaign_epochs', 'epoch', 'bigint', 8, 'value', ''),
    ('campaign_epochs', 'holder', 'text', 63, 'value', ''),
    ('campaign_epochs', 'taken_at', 'timestamp with time zone', NULL, 'value', ''),
    ('campaign_events', 'id', 'bigint', 4, 'never', ''),
    ('campaign_events', 'campaign_id', 'text', 40, 'value', ''),
    ('campaign_events', 'at', 'timestamp with time zone', NULL, 'value', ''),
    ('campaign_events', 'kind', 'text', 50, 'value', ''),
    ('campaign_events', 'cycle', 'integer', 4, 'null', ''),
    ('campaign_events', 'actor', 'text', 255, 'value', ''),
    ('campaign_events', 'source', 'text', 63, 'value', ''),
    ('campaign_events', 'db_user', 'text', 63, 'default', ''),
    ('campaign_events', 'reason', 'text', NULL, 'value', ''),
    ('campaign_events', 'detail', 'jsonb', NULL, 'value', ''),
    ('page_acts', 'id', 'uuid', NULL, 'value', ''),
    ('page_acts', 'at', 'timestamp with time zone', NULL, 'default', ''),
    ('page_acts', 'person', 'text', 255, 'value', ''),
    ('page_acts', 'peer', 'text', 64, 'value', ''),
    ('page_acts', 'act', 'text', 20, 'value', ''),
    ('page_acts', 'reason', 'text', 500, 'value', ''),
    ('page_acts', 'filter', 'jsonb', NULL, 'value', ''),
    ('page_acts', 'value', 'text', 40, 'value', ''),
    ('page_acts', 'drawn_at', 'timestamp with time zone', NULL, 'value', ''),
    ('page_acts', 'asked', 'text', 64, 'value', ''),
    ('page_acts', 'done', 'integer', 4, 'default', ''),
    ('page_acts', 'skipped', 'jsonb', NULL, 'default', ''),
    ('page_acts', 'undone_at', 'timestamp with time zone', NULL, 'null', ''),
    ('page_acts', 'undone_by', 'text', 255, 'null', ''),
    ('page_acts', 'undone_from', 'text', 64, 'null', ''),
    ('page_acts', 'undo_reason', 'text', 500, 'null', ''),
    ('page_acts', 'undo_done', 'integer', 4, 'null', ''),
    ('page_acts', 'undo_skipped', 'jsonb', NULL, 'null', ''),
    ('page_act_campaigns', 'act_id', 'uuid', NULL, 'value', ''),
    ('page_act_campaigns', 'campaign_id', 'text', 40, 'value', ''),
    ('page_act_campaigns', 'at', 'timestamp with time zone', NULL, 'default', ''),
    ('page_act_campaigns', 'a1_retry_count', 'integer', 2, 'null', ''),
    ('page_act_campaigns', 'a1_last_retry_at', 'timestamp with time zone', NULL, 'null', ''),
    ('page_act_campaigns', 'a1_permanently_failed', 'boolean', NULL, 'null', ''),
    ('page_act_campaigns', 'a1_failure_reason', 'text', 255, 'null', ''),
    ('page_act_campaigns', 'a1_max_retries', 'integer', 2, 'null', ''),
    ('page_act_campaigns', 'a1_snoozed_until', 'timestamp with time zone', NULL, 'null', ''),
    ('page_act_campaigns', 'a1_cycle', 'integer', 4, 'null', ''),
    ('page_act_campaigns', 'a1_auto_resets', 'integer', 2, 'null', ''),
    ('page_sessions', 'token_hash', 'text', 64, 'value', ''),
    ('page_sessions', 'person', 'text', 255, 'value', ''),
    ('page_sessions', 'fingerprint', 'text', 64, 'value', ''),
    ('page_sessions', 'created_at', 'timestamp with time zone', NULL, 'default', ''),
    ('page_sessions', 'expires_at', 'timestamp with time zone', NULL, 'value', ''),
    ('metric_totals', 'name', 'text', 50, 'value', ''),
    ('metric_totals', 'label', 'text', 100, 'value', ''),
    ('metric_totals', 'value', 'bigint', 8, 'default', ''),
    ('webhook_targets', 'name', 'text', 40, 'value', ''),
    ('webhook_targets', 'begun_at', 'timestamp with time zone', NULL, 'value', ''),
    ('webhook_targets', 'wait_until', 'timestamp with time zone', NULL, 'null', ''),
    ('webhook_targets', 'off_at', 'timestamp with time zone', NULL, 'null', ''),
    ('webhook_targets', 'off_why', 'text', 200, 'null', ''),
    ('workers', 'worker', 'text', 63, 'value', ''),
    ('workers', 'host', 'text', 255, 'value', ''),
    ('workers', 'started_at', 'timestamp with time zone', NULL, 'value', ''),
    ('workers', 'seen_at', 'timestamp with time zone', NULL, 'value', ''),
    ('workers', 'campaigns_at_once', 'integer', 4, 'value', ''),
    ('workers', 'drain_asked_at', 'timestamp with time zone', NULL, 'null', ''),
    ('workers', 'drain_asked_by', 'text', 255, 'null', ''),
    ('workers', 'trouble', 'text', NULL, 'null', ''),
    ('workers', 'trouble_code', 'integer', 2, 'null', ''),
    ('workers', 'trouble_at', 'timestamp with time zone', NULL, 'null', ''),
    ('workers', 'trouble_seen_at', 'timestamp with time zone', NULL, 'null', ''),
    ('worker_campaigns', 'campaign_id', 'text', 40, 'value', ''),
    ('worker_campaigns', 'worker', 'text', 63, 'value', ''),
    ('worker_campaigns', 'since', 'timestamp with time zone', NULL, 'value', '')
),

-- Unique keys: for each ON CONFLICT, and others that the code needs.
needed_keys (table_name, columns, condition) AS (VALUES
    ('schema_migrations', '{name}'::text[], ''),
    ('campaign_status', '{campaign_id}', ''),
    ('campaign_status', '{box_folder_id}', 'box_folder_id IS NOT NULL'),
    ('campaign_assets', '{campaign_id,asset_id}', ''),
    ('notices', '{id}', ''),
    ('notice_deliveries', '{notice_id,recipient}', ''),
    ('campaign_errors', '{campaign_id,kind}', ''),
    ('orchestrator_task_runs', '{run_id}', ''),
    ('orchestrator_task_alerts', '{task,ending}', ''),
    ('daily_reports', '{report_date}', ''),
    ('upload_sessions', '{campaign_id,asset_id}', ''),
    ('rate_buckets', '{bucket}', ''),
    ('campaign_uploads', '{campaign_id,completed_at}', ''),
    ('run_epochs', '{lock}', ''),
    ('campaign_epochs', '{campaign_id}', ''),
    ('campaign_events', '{id}', ''),
    ('page_acts', '{id}', ''),
    ('page_act_campaigns', '{act_id,campaign_id}', ''),
    ('page_sessions', '{token_hash}', ''),
    ('metric_totals', '{name,label}', ''),
    ('webhook_targets', '{name}', ''),
    ('workers', '{worker}', ''),
    ('worker_campaigns', '{campaign_id}', '')
),

-- The functions that a run calls before each write.
needed_functions (signature, table_name, migration) AS (VALUES
    ('hold_run(integer, bigint)', 'run_epochs', '015_create_run_epochs'),
    ('hold_campaign(text, bigint)', 'campaign_epochs', '021_create_campaign_epochs')
),

-- The triggers that write the history, and begin a cycle with each reset.
needed_triggers (table_name, name, migration) AS (VALUES
    ('campaign_status', 'campaign_status_before', '023_create_campaign_events'),
    ('campaign_status', 'campaign_status_after', '023_create_campaign_events'),
    ('campaign_errors', 'campaign_errors_after', '023_create_campaign_events'),
    ('campaign_uploads', 'campaign_uploads_after', '023_create_campaign_events'),
    ('notices', 'notices_after', '023_create_campaign_events'),
    ('notice_deliveries', 'notice_deliveries_after', '023_create_campaign_events'),
    ('notice_deliveries', 'notice_deliveries_folded', '023_create_campaign_events'),
    ('notice_deliveries', 'notice_deliveries_resent', '024_create_page_acts')
),

cures AS (
    SELECT 'apply the migrations as the owner of the tables: python scripts/migrate.py' AS migrate,
           format('as the owner of the tables: psql -v ON_ERROR_STOP=1 -v role=%s -f database/roles.sql',
                  quote_ident(current_user)) AS grant_it,
           'give the product a schema of its own: CREATE SCHEMA a1_to_a2, and ALTER ROLE ... SET search_path = a1_to_a2'
           ' for the owner and for the role of the scripts; or rename that table' AS own_schema
),

-- The relations with the needed names that this session sees.
seen AS (
    SELECT t.*, c.oid, c.relkind, c.relpersistence, c.relnamespace,
           (SELECT string_agg(k.name, ', ') FROM needed_columns k
            WHERE k.table_name = t.name
              AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                              WHERE a.attrelid = c.oid AND a.attname = k.name AND a.attnum > 0
                                AND NOT a.attisdropped)
            -- campaign_status may be older than the product: 018 adds what it lacks, if only it has the id
            HAVING bool_or(CASE WHEN t.name = 'campaign_status' THEN k.name = 'campaign_id' ELSE k.since = '' END)
           ) AS foreign_for_lack_of
    FROM needed_tables t LEFT JOIN pg_catalog.pg_class c ON c.oid = to_regclass(t.name)
),
ours AS (
    SELECT * FROM seen WHERE relkind IN ('r', 'p') AND foreign_for_lack_of IS NULL
),

-- Schemas with the product's tables that this session does not see, or that come after another schema.
elsewhere AS (
    SELECT s.oid, s.nspname, has_schema_privilege(s.oid, 'USAGE') AS is_usable,
           s.nspname = ANY (current_schemas(FALSE)) AS is_on_path,
           string_agg(t.name, ', ' ORDER BY t.name) AS names,
           string_agg(t.name, ', ' ORDER BY t.name) FILTER (WHERE t.oid IS NOT NULL) AS shadowed
    FROM pg_catalog.pg_namespace s
    JOIN pg_catalog.pg_class c ON c.relnamespace = s.oid AND c.relkind IN ('r', 'p')
    JOIN seen t ON t.name = c.relname AND c.oid IS DISTINCT FROM t.oid
    WHERE s.nspname !~ '^pg_' AND s.nspname <> 'information_schema'
    GROUP BY s.oid, s.nspname
    HAVING 'campaign_status' = ANY (array_agg(t.name))
),

columns AS (
    SELECT t.oid, k.*, a.attnum, a.atthasdef, a.attidentity, a.attgenerated,
           a.attnotnull OR base.is_not_null AS is_not_null,
           CASE WHEN k.needed LIKE 'timestamp%' THEN 'now()' WHEN k.needed = 'boolean' THEN 'FALSE'
                WHEN k.needed = 'integer[]' THEN '''{}''' ELSE '0' END AS preset,
           format_type(a.atttypid, a.atttypmod) AS shown, base.type, base.typmod, base.typlen, base.typcategory,
           format_type(base.type, NULL) AS family
    FROM ours t
    JOIN needed_columns k (table_name, name, needed, least, filled, since) ON k.table_name = t.name
    JOIN pg_catalog.pg_attribute a
        ON a.attrelid = t.oid AND a.attname = k.name AND a.attnum > 0 AND NOT a.attisdropped
    CROSS JOIN LATERAL ( -- through domains down to the type itself
        WITH RECURSIVE down (type, typmod, is_not_null) AS (
            SELECT a.atttypid, a.atttypmod, FALSE
            UNION ALL
            SELECT y.typbasetype, greatest(d.typmod, y.typtypmod), d.is_not_null OR y.typnotnull
            FROM down d JOIN pg_catalog.pg_type y ON y.oid = d.type AND y.typtype = 'd')
        SELECT d.type, d.typmod, (SELECT bool_or(o.is_not_null) FROM down o) AS is_not_null,
               y.typlen, y.typcategory
        FROM down d JOIN pg_catalog.pg_type y ON y.oid = d.type AND y.typtype <> 'd') base
),

-- How each column's type differs from what its values need, and what prevents changing it.
misfits AS (
    SELECT c.*,
           CASE
               WHEN c.needed = 'text' THEN
                   CASE
                       WHEN c.family = 'text' OR c.family = 'character varying' AND c.typmod = -1 THEN NULL
                       WHEN c.family = 'character varying' AND c.typmod - 4 < coalesce(c.least, 1000)
                           THEN format('its values need at least %s characters', coalesce(c.least, 1000))
                       WHEN c.family = 'character varying' THEN format('a longer value is refused')
                       WHEN c.family = 'character' THEN 'it pads each value with spaces'
                       WHEN c.typcategory = 'S' THEN 'it compares differently from text'
                       ELSE 'it does not accept every text'
                   END
               WHEN c.needed IN ('integer', 'bigint') THEN
                   CASE WHEN c.family IN ('smallint', 'integer', 'bigint') AND c.typlen >= c.least THEN NULL
                        ELSE format('%s is needed', c.needed) END
               WHEN c.family = c.needed THEN NULL
               WHEN c.family = 'timestamp without time zone' THEN 'it does not keep the time zone'
               ELSE format('%s is needed', c.needed)
           END AS reason,
           c.needed = 'text'
               AND (c.family = 'character varying' AND c.typmod - 4 >= coalesce(c.least, 1000)
                    OR c.typcategory = 'S' AND c.family NOT IN ('character varying', 'character', 'name'))
           OR c.family = 'timestamp without time zone' AND c.needed LIKE 'timestamp%'
               AND c.table_name = 'campaign_status' AND c.name IN ('created_at', 'updated_at') AS is_harmless,
           (WITH RECURSIVE views (oid, depth) AS (
                SELECT r.ev_class, 1
                FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid
                WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
                  AND d.refobjid = c.oid AND d.refobjsubid = c.attnum
                UNION -- views of these views
                SELECT r.ev_class, v.depth + 1
                FROM views v
                JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = v.oid
                    AND d.classid = 'pg_catalog.pg_rewrite'::regclass
                JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid AND r.ev_class <> v.oid)
            SELECT string_agg(o.name, ', ' ORDER BY o.depth DESC, o.name)
            FROM (SELECT format('the %s %s', CASE k.relkind WHEN 'm' THEN 'materialized view' ELSE 'view' END,
                                v.oid::regclass) AS name, max(v.depth) AS depth
                  FROM views v JOIN pg_catalog.pg_class k ON k.oid = v.oid WHERE k.relkind IN ('v', 'm') GROUP BY 1
                  UNION
                  SELECT coalesce('the trigger ' || quote_ident(g.tgname), 'the policy ' || quote_ident(p.polname),
                                  'the generated column ' || quote_ident(a.attname), 'the function ' || f.oid::regprocedure), 0
                  FROM pg_catalog.pg_depend d
                  LEFT JOIN pg_catalog.pg_trigger g ON d.classid = 'pg_catalog.pg_trigger'::regclass AND g.oid = d.objid
                  LEFT JOIN pg_catalog.pg_policy p ON d.classid = 'pg_catalog.pg_policy'::regclass AND p.oid = d.objid
                  LEFT JOIN pg_catalog.pg_proc f ON d.classid = 'pg_catalog.pg_proc'::regclass AND f.oid = d.objid
                  LEFT JOIN pg_catalog.pg_attrdef e ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND e.oid = d.objid
                  LEFT JOIN pg_catalog.pg_attribute a -- before PostgreSQL 15 the column itself depends, later its expression
                      ON a.attnum <> c.attnum AND (a.attrelid = e.adrelid AND a.attnum = e.adnum
                          OR d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND a.attrelid = d.objid
                              AND a.attnum = d.objsubid AND a.attgenerated <> '')
                  WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = c.oid AND d.refobjsubid = c.attnum
                    AND coalesce(g.oid, p.oid, f.oid, a.attrelid) IS NOT NULL) o) AS obstacles,
           -- a default of the old type may not fit the new one
           c.atthasdef AND NOT (c.needed = 'text' AND c.typcategory = 'S') AS has_old_default
    FROM columns c
),

indexes AS (
    SELECT i.*, x.relname, i.indpred IS NOT NULL AS is_partial,
           (SELECT array_agg(coalesce(a.attname::text, '(an expression)'))
            FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
            LEFT JOIN pg_catalog.pg_attribute a
                ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND k.attnum <> 0
            WHERE k.place <= i.indnkeyatts) AS columns
    FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
    JOIN ours t ON t.oid = i.indrelid
),
missing_keys AS (
    SELECT t.oid, k.*, fit.is_there, fit.deferrable,
           (SELECT string_agg(format('the index %s cannot be used, it is %s', i.relname,
                       concat_ws(' and ',
                           CASE WHEN NOT i.indisunique THEN 'not unique' END,
                           CASE WHEN NOT i.indisvalid THEN 'half built (not valid)' END,
                           CASE WHEN NOT i.indimmediate THEN 'deferrable' END,
                           CASE WHEN i.is_partial AND k.condition = '' THEN 'partial' END,
                           CASE WHEN NOT i.columns <@ k.columns
                                THEN format('over %s', array_to_string(i.columns, ', ')) END)), '; ')
            FROM indexes i
            WHERE i.indrelid = t.oid AND (i.columns @> k.columns OR i.columns = '{(an expression)}')
              AND (i.indisunique OR i.columns <@ k.columns)) AS others
    FROM ours t
    JOIN needed_keys k ON k.table_name = t.name
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE i.indimmediate AND (NOT i.is_partial OR k.condition <> '')) > 0 AS is_there,
               -- even next to a usable one, it makes PostgreSQL refuse ON CONFLICT
               string_agg(quote_ident(i.relname), ', ') FILTER (WHERE NOT i.indimmediate) AS deferrable
        FROM indexes i
        WHERE i.indrelid = t.oid AND i.indisunique AND i.indisvalid
          AND i.columns <@ k.columns AND i.columns @> k.columns) fit
    WHERE NOT fit.is_there OR fit.deferrable IS NOT NULL
),

lacking_rights AS (
    SELECT t.name, r.name AS right_name,
           (SELECT string_agg(c.name, ', ' ORDER BY c.attnum) FROM columns c
            WHERE c.oid = t.oid AND r.name <> 'DELETE' AND NOT has_column_privilege(t.oid, c.attnum, r.name)) AS on_columns,
           (SELECT count(*) FROM columns c WHERE c.oid = t.oid) =
           (SELECT count(*) FROM columns c
            WHERE c.oid = t.oid AND (r.name = 'DELETE' OR NOT has_column_privilege(t.oid, c.attnum, r.name))) AS is_whole
    FROM ours t CROSS JOIN unnest(string_to_array(t.rights, ', ')) AS r (name)
    WHERE NOT has_table_privilege(t.oid, r.name)
      AND (r.name = 'DELETE'
           OR EXISTS (SELECT FROM columns c
                      WHERE c.oid = t.oid AND NOT has_column_privilege(t.oid, c.attnum, r.name)))
    UNION ALL -- notices do not change, except for this
    SELECT c.table_name, 'UPDATE', c.name, FALSE FROM columns c
    WHERE c.table_name = 'notices' AND c.name = 'folded_into' AND NOT has_column_privilege(c.oid, c.attnum, 'UPDATE')
),

-- Sequences and functions that an INSERT, an UPDATE or a CHECK of our tables calls.
called AS (
    SELECT DISTINCT t.name, d.refclassid, d.refobjid
    FROM ours t
    JOIN pg_catalog.pg_attrdef f ON f.adrelid = t.oid
    JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = f.oid
    UNION
    SELECT t.name, d.refclassid, d.refobjid
    FROM ours t
    JOIN pg_catalog.pg_constraint f ON f.conrelid = t.oid AND f.contype = 'c'
    JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_constraint'::regclass AND d.objid = f.oid
),

differences (severity, what, cure) AS (
    -- The server and the session

    SELECT 'fault', format('the server is PostgreSQL %s', current_setting('server_version')),
           'PostgreSQL 13 or newer'
    WHERE current_setting('server_version_num')::int < 130000
    UNION ALL
    SELECT 'fault', format('the database %s has the encoding %s, which cannot store every name and e-mail',
                           current_database(), getdatabaseencoding()),
           'make a database WITH ENCODING ''UTF8'' TEMPLATE template0 and copy the tables with pg_dump'
    WHERE getdatabaseencoding() <> 'UTF8'
    UNION ALL
    SELECT 'passing', 'the server is a standby and accepts no writes; this ends when it is promoted',
           'connect to the primary: several hosts and target_session_attrs=read-write in DATABASE_URL find it'
    WHERE pg_is_in_recovery()
    UNION ALL
    SELECT 'passing', format('sessions of %s are read-only (default_transaction_read_only); this ends when the'
                           ' fail-over or the maintenance ends', current_user),
           format('ALTER ROLE %I RESET default_transaction_read_only; or ALTER DATABASE or ALTER SYSTEM, if it is set there',
                  current_user)
    WHERE NOT pg_is_in_recovery() AND current_setting('default_transaction_read_only')::boolean

    -- Where the tables are

    UNION ALL
    SELECT 'fault', 'this database has none of the product''s tables', c.migrate
    FROM cures c
    WHERE NOT EXISTS (SELECT FROM seen WHERE oid IS NOT NULL) AND NOT EXISTS (SELECT FROM elsewhere)
    UNION ALL
    SELECT 'fault', format('the product''s tables are in the schema %I, and the role %I has no USAGE on it',
                           e.nspname, current_user), c.grant_it
    FROM elsewhere e, cures c
    WHERE NOT e.is_usable AND EXISTS (SELECT FROM seen WHERE name = 'campaign_status' AND oid IS NULL)
    UNION ALL
    SELECT 'fault', format('the product''s tables are in the schema %I, which is not on the search_path (%s)',
                           e.nspname, current_setting('search_path')),
           format('ALTER ROLE %I IN DATABASE %I SET search_path = %I', current_user, current_database(), e.nspname)
    FROM elsewhere e
    WHERE e.is_usable AND EXISTS (SELECT FROM seen WHERE name = 'campaign_status' AND oid IS NULL)
    UNION ALL
    SELECT 'warning', format('the schema %I also contains %s; the product uses those in the schema %I',
                             e.nspname, e.shadowed,
                             (SELECT n.nspname FROM seen t JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
                              WHERE t.name = 'campaign_status')),
           format('if those are the wrong ones: ALTER ROLE %I IN DATABASE %I SET search_path = %I',
                  current_user, current_database(), e.nspname)
    FROM elsewhere e
    WHERE e.shadowed IS NOT NULL AND EXISTS (SELECT FROM seen WHERE name = 'campaign_status' AND oid IS NOT NULL)
    UNION ALL
    SELECT 'warning', format('the product''s tables are spread over the schemas %s',
                             string_agg(DISTINCT quote_ident(n.nspname), ', ')),
           'move them into one: ALTER TABLE ... SET SCHEMA ...'
    FROM ours t JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
    HAVING count(DISTINCT n.oid) > 1
    UNION ALL
    SELECT 'fault', format('the table %s is missing', t.name),
           format('%s; if it says that nothing is pending: psql -v ON_ERROR_STOP=1 -f database/migrations/%s.sql',
                  c.migrate, t.migration)
    FROM seen t, cures c
    WHERE t.oid IS NULL AND EXISTS (SELECT FROM seen WHERE oid IS NOT NULL)
      AND NOT EXISTS (SELECT FROM elsewhere e WHERE t.name = ANY (string_to_array(e.names, ', ')))
    UNION ALL
    SELECT 'fault', format('%s is a %s, not a table', t.name,
                           CASE t.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
                                          WHEN 'f' THEN 'foreign table' WHEN 'S' THEN 'sequence'
                                          WHEN 'i' THEN 'index' ELSE 'relation of another kind' END),
           format('rename it, then: psql -v ON_ERROR_STOP=1 -f database/migrations/%s.sql', t.migration)
    FROM seen t WHERE t.relkind NOT IN ('r', 'p')
    UNION ALL
    SELECT 'fault', format('%s is partitioned: the migrations cannot make its indexes while it is in use', t.name),
           format('make it an ordinary table while nobody writes: ALTER TABLE %1$I RENAME TO %1$s_parts; CREATE TABLE %1$I AS TABLE'
                  ' %1$s_parts; then apply the migrations', t.name)
    FROM seen t WHERE t.relkind = 'p'
    UNION ALL
    SELECT 'fault', format('%s is not the table that the product makes: it lacks %s', t.name, t.foreign_for_lack_of),
           format('if it is another program''s, %s; then: psql -v ON_ERROR_STOP=1 -f database/migrations/%s.sql',
                  c.own_schema, t.migration)
    FROM seen t, cures c WHERE t.relkind IN ('r', 'p') AND t.foreign_for_lack_of IS NOT NULL

    -- Columns

    UNION ALL
    SELECT 'fault', format('%s.%s is missing', t.name, k.name),
           CASE WHEN k.since = '' -- of campaign_status: 001 did not make it
                THEN concat(format('ALTER TABLE %I ADD COLUMN %I %s', t.name, k.name, k.type),
                            CASE WHEN k.filled = 'default' THEN ' NOT NULL DEFAULT now()' END)
                ELSE format('%s; if it says that nothing is pending: psql -v ON_ERROR_STOP=1 -f database/migrations/%s.sql',
                            c.migrate, k.since) END
    FROM cures c, ours t JOIN needed_columns k ON k.table_name = t.name
    WHERE NOT EXISTS (SELECT FROM columns o WHERE o.oid = t.oid AND o.name = k.name)
    UNION ALL
    SELECT CASE WHEN m.is_harmless THEN 'warning' ELSE 'fault' END,
           format('%s.%s is %s; %s', m.table_name, m.name, m.shown, m.reason),
           concat(
               'drop ' || m.obstacles || ' first, and create it again afterwards: ',
               format('ALTER TABLE %I ', m.table_name),
               CASE WHEN m.has_old_default THEN format('ALTER COLUMN %I DROP DEFAULT, ', m.name) END,
               format('ALTER COLUMN %I TYPE %s', m.name, m.needed),
               CASE WHEN m.family = 'timestamp without time zone' AND m.needed LIKE 'timestamp%'
                    THEN format(' USING %I AT TIME ZONE ''...''', m.name)
                    WHEN m.typcategory = 'N' AND m.needed LIKE 'timestamp%' THEN format(' USING to_timestamp(%I)', m.name)
                    WHEN m.typcategory = 'N' AND m.needed = 'boolean' THEN format(' USING %I <> 0', m.name)
                    WHEN m.family NOT IN ('character varying', 'character')
                    THEN format(' USING %I::%s', m.name, m.needed) END,
               CASE WHEN m.filled = 'default' THEN format(', ALTER COLUMN %I SET DEFAULT %s', m.name, m.preset) END,
               CASE WHEN m.family = 'timestamp without time zone' AND m.needed LIKE 'timestamp%'
                    THEN '; ''...'' is the time zone of the old times' END)
    FROM misfits m WHERE m.reason IS NOT NULL
    UNION ALL
    SELECT CASE WHEN c.name = 'status' THEN 'warning' ELSE 'fault' END, -- NULL is rare there: no status in the DAM
           format('%s.%s is NOT NULL, and the product writes NULL to it', c.table_name, c.name),
           format('ALTER TABLE %I ALTER COLUMN %I DROP NOT NULL', c.table_name, c.name)
    FROM columns c WHERE c.filled = 'null' AND c.is_not_null
    UNION ALL
    SELECT 'fault', format('%s.%s is NOT NULL without a default, and the product gives it no value', c.table_name, c.name),
           CASE WHEN c.filled = 'never'
                THEN format('ALTER TABLE %1$I ALTER COLUMN %2$I ADD GENERATED ALWAYS AS IDENTITY; SELECT setval('
                            'pg_get_serial_sequence(''%1$I'', ''%2$s''), max(%2$I)) FROM %1$I', c.table_name, c.name)
                ELSE format('ALTER TABLE %I ALTER COLUMN %I SET DEFAULT %s', c.table_name, c.name, c.preset) END
    FROM misfits c
    WHERE c.filled IN ('default', 'never') AND c.is_not_null AND NOT c.atthasdef AND c.attidentity = ''
      AND c.reason IS NULL -- else the remedy of that also sets a default
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g -- one that may fill it: told as a trigger
                      WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & 7 = 7)
    UNION ALL
    SELECT 'fault', format('%s.%s is generated, and the product writes to it', c.table_name, c.name),
           CASE WHEN c.attgenerated <> '' THEN format('ALTER TABLE %I ALTER COLUMN %I DROP EXPRESSION', c.table_name, c.name)
                ELSE format('ALTER TABLE %I ALTER COLUMN %I SET GENERATED BY DEFAULT', c.table_name, c.name) END
    FROM columns c WHERE c.attgenerated <> '' OR c.attidentity = 'a' AND c.filled <> 'never'
    UNION ALL
    SELECT CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_trigger g
                             WHERE g.tgrelid = t.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & 7 = 7)
                THEN 'warning' ELSE 'fault' END,
           format('%s.%s is NOT NULL without a default, and the product gives it no value', t.name, a.attname),
           CASE WHEN p.conname IS NULL
                THEN format('ALTER TABLE %I ALTER COLUMN %I DROP NOT NULL; or give it a default', t.name, a.attname)
                WHEN a.atttypid IN ('integer'::regtype, 'bigint'::regtype)
                THEN format('ALTER TABLE %1$I ALTER COLUMN %2$I ADD GENERATED BY DEFAULT AS IDENTITY; SELECT setval('
                            'pg_get_serial_sequence(''%1$I'', %2$L), max(%2$I)) FROM %1$I', t.name, a.attname)
                ELSE format('ALTER TABLE %1$I DROP CONSTRAINT %2$I; ALTER TABLE %1$I ALTER COLUMN %3$I DROP NOT NULL; or'
                            ' give it a default', t.name, p.conname, a.attname) END
    FROM ours t
    JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_constraint p ON p.conrelid = t.oid AND p.contype = 'p' AND a.attnum = ANY (p.conkey)
    WHERE NOT EXISTS (SELECT FROM needed_columns k WHERE k.table_name = t.name AND k.name = a.attname)
      AND (a.attnotnull OR y.typnotnull) AND NOT a.atthasdef AND a.attidentity = '' AND a.attgenerated = ''
      AND y.typdefault IS NULL

    -- Keys and indexes

    UNION ALL
    SELECT 'fault',
           CASE WHEN k.is_there
                THEN format('%s has the deferrable key %s over %s, and PostgreSQL refuses ON CONFLICT with such a key',
                            k.table_name, k.deferrable, array_to_string(k.columns, ', '))
                ELSE concat(format('%s has no unique key over %s', k.table_name, array_to_string(k.columns, ', ')),
                            ': ' || k.others, '; several rows have the id ' || twice.ids) END,
           CASE WHEN k.deferrable IS NOT NULL
                THEN format('ALTER TABLE %I DROP CONSTRAINT %s, ADD UNIQUE (%s)', k.table_name, k.deferrable,
                            array_to_string(k.columns, ', '))
                ELSE concat('keep one row of each id' || left(twice.ids, 0) || ', then: ',
                            format('CREATE UNIQUE INDEX CONCURRENTLY ON %I (%s)', k.table_name,
                                   array_to_string(k.columns, ', ')),
                            ' WHERE ' || nullif(k.condition, '')) END
    FROM missing_keys k
    LEFT JOIN (VALUES ('campaign_status', '{campaign_id}'::text[],
                       nullif(current_setting('a1_to_a2.duplicates'), ''))) AS twice (table_name, columns, ids)
        ON twice.table_name = k.table_name AND twice.columns = k.columns
    -- a table without the columns needs no key yet
    WHERE (SELECT count(*) FROM columns c WHERE c.oid = k.oid AND c.name = ANY (k.columns)) = cardinality(k.columns)
    UNION ALL
    SELECT 'warning', format('%s has the unique index %s over %s: a second row with the same value is refused',
                             t.name, i.relname, array_to_string(i.columns, ', ')),
           format('drop it if that can happen: %s',
                  CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_constraint f WHERE f.conindid = i.indexrelid
                                                                             AND f.contype IN ('p', 'u', 'x'))
                       THEN format('ALTER TABLE %I DROP CONSTRAINT %I', t.name, i.relname)
                       ELSE format('DROP INDEX %I', i.relname) END)
    FROM indexes i JOIN ours t ON t.oid = i.indrelid
    WHERE (i.indisunique OR i.indisexclusion)
      AND EXISTS (SELECT FROM needed_columns k WHERE k.table_name = t.name AND k.name = ANY (i.columns)
                  UNION ALL SELECT WHERE i.columns = '{(an expression)}')
      AND (i.indisexclusion OR NOT EXISTS (SELECT FROM needed_keys k WHERE k.table_name = t.name AND i.columns @> k.columns))
    UNION ALL
    SELECT 'warning', format('the index %s of %s is half built (not valid): no query uses it', i.relname, t.name),
           format('REINDEX INDEX CONCURRENTLY %I', i.relname)
    FROM indexes i JOIN ours t ON t.oid = i.indrelid WHERE NOT i.indisvalid

    -- Things that can refuse or change single values

    UNION ALL
    SELECT f.severity, f.what, f.cure
    FROM jsonb_to_recordset(current_setting('a1_to_a2.found')::jsonb) AS f (severity text, what text, cure text)
    UNION ALL
    SELECT 'warning', format('%s has the constraint %I, %s', t.name, f.conname, pg_get_constraintdef(f.oid)),
           'check whether it allows what the product writes'
    FROM ours t JOIN pg_catalog.pg_constraint f ON f.conrelid = t.oid AND f.contype = 'c'
    WHERE t.name <> 'campaign_status'
    UNION ALL
    SELECT 'warning', format('%s has the constraint %I, %s, which may refuse what the product writes', t.name, f.conname,
                             pg_get_constraintdef(f.oid)),
           format('ALTER TABLE %I DROP CONSTRAINT %I; if it can', t.name, f.conname)
    FROM ours t
    JOIN pg_catalog.pg_constraint f ON f.conrelid = t.oid AND f.contype = 'f'
    WHERE f.confrelid NOT IN (SELECT o.oid FROM ours o)
      AND EXISTS (SELECT FROM columns c WHERE c.oid = t.oid AND c.attnum = ANY (f.conkey))
    UNION ALL
    SELECT 'warning', format('%s refers to %s (%I), which may not allow the product to delete rows there',
                             f.conrelid::regclass, t.name, f.conname),
           format('ALTER TABLE %s DROP CONSTRAINT %I; or make it ON DELETE CASCADE', f.conrelid::regclass, f.conname)
    FROM ours t
    JOIN pg_catalog.pg_constraint f ON f.confrelid = t.oid AND f.contype = 'f' AND f.confdeltype IN ('a', 'r')
    WHERE t.rights LIKE '%DELETE%' AND f.conrelid NOT IN (SELECT o.oid FROM ours o)
    UNION ALL
    SELECT 'warning', format('%s has the trigger %I (%s), which may refuse or change what the product writes',
                             t.name, g.tgname, g.tgfoid::regproc),
           format('ALTER TABLE %I DISABLE TRIGGER %I; if it does', t.name, g.tgname)
    FROM ours t JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D'
    WHERE NOT EXISTS (SELECT FROM needed_triggers n WHERE n.table_name = t.name AND n.name = g.tgname)
    UNION ALL
    SELECT 'fault', format('%s lacks the trigger %s, which writes the history of campaigns', t.name, n.name),
           CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = t.oid AND g.tgname = n.name)
                THEN format('ALTER TABLE %I ENABLE TRIGGER %I', t.name, n.name)
                ELSE format('%s; if it says that nothing is pending: psql -v ON_ERROR_STOP=1 -f database/migrations/%s.sql',
                            c.migrate, n.migration) END
    FROM needed_triggers n JOIN ours t ON t.name = n.table_name, cures c
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g
                      WHERE g.tgrelid = t.oid AND g.tgname = n.name AND g.tgenabled <> 'D')
    UNION ALL
    SELECT 'fault', format('%s has the rule %I, and PostgreSQL refuses ON CONFLICT on a table with a rule', t.name, r.rulename),
           format('DROP RULE %I ON %I', r.rulename, t.name)
    FROM ours t JOIN pg_catalog.pg_rewrite r ON r.ev_class = t.oid AND r.ev_enabled <> 'D'
    UNION ALL
    SELECT CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = t.oid) THEN 'warning' ELSE 'fault' END,
           format('row-level security applies to %s for the role %I (policies: %s): it may hide or refuse rows', t.name,
                  current_user, coalesce((SELECT string_agg(quote_ident(p.polname), ', ') FROM pg_catalog.pg_policy p
                                          WHERE p.polrelid = t.oid), 'none, so it hides every row')),
           format('ALTER TABLE %I DISABLE ROW LEVEL SECURITY; or ALTER ROLE %I BYPASSRLS, or a policy that allows all',
                  t.name, current_user)
    FROM ours t WHERE row_security_active(t.oid)
    UNION ALL
    SELECT 'warning', format('%s is UNLOGGED: a crash of the server empties it', t.name),
           format('ALTER TABLE %I SET LOGGED', t.name)
    FROM ours t WHERE t.relpersistence = 'u'

    -- Rights, and the functions that are called

    UNION ALL
    SELECT 'fault', format('the role %I lacks %s on %s', current_user,
                           string_agg(CASE WHEN l.is_whole THEN l.right_name
                                           ELSE format('%s (%s)', l.right_name, l.on_columns) END, ', '
                                      ORDER BY l.right_name), l.name), c.grant_it
    FROM lacking_rights l, cures c GROUP BY l.name, c.grant_it
    UNION ALL
    SELECT DISTINCT 'fault', format('the role %I lacks USAGE on the sequence %s, which fills %s', current_user,
                                    l.refobjid::regclass, l.name), c.grant_it
    FROM called l JOIN pg_catalog.pg_class s ON s.oid = l.refobjid, cures c
    WHERE CASE WHEN l.refclassid = 'pg_catalog.pg_class'::regclass AND s.relkind = 'S' -- first, then:
               THEN NOT has_sequence_privilege(l.refobjid, 'USAGE, UPDATE') END
    UNION ALL
    SELECT DISTINCT 'fault', format('the role %I lacks EXECUTE on the function %s, which %s calls', current_user,
                                    l.refobjid::regprocedure, l.name),
           format('GRANT EXECUTE ON FUNCTION %s TO %I', l.refobjid::regprocedure, current_user)
    FROM called l
    WHERE CASE WHEN l.refclassid = 'pg_catalog.pg_proc'::regclass
               THEN NOT has_function_privilege(l.refobjid, 'EXECUTE') END
    UNION ALL
    SELECT 'fault', format('the function %s is missing', n.signature),
           format('%s; if it says that nothing is pending: psql -v ON_ERROR_STOP=1 -f database/migrations/%s.sql',
                  c.migrate, n.migration)
    FROM needed_functions n, cures c
    WHERE EXISTS (SELECT FROM ours WHERE name = n.table_name) AND to_regprocedure(n.signature) IS NULL
    UNION ALL
    SELECT 'fault', format('the role %I lacks EXECUTE on the function %s', current_user, n.signature), c.grant_it
    FROM needed_functions n, cures c
    WHERE NOT has_function_privilege(to_regprocedure(n.signature)::oid, 'EXECUTE')
)

SELECT severity, what, cure FROM differences ORDER BY severity, what;
