-- The history of each campaign, and what people may set for one campaign.
--   campaign_events    append-only: attempts, notices, resets, snoozes, limits, uploads, errors, statuses. Triggers
--                      write it, so that nothing which changes a campaign leaves no trace, a plain UPDATE neither.
--                      What was in a1_resets moves here
--   a1_max_retries     attempts of a cycle for this campaign; NULL: A1_MAX_RETRIES
--   a1_snoozed_until   files are promised: no attempt counts before; at most 90 days ahead
--   a1_cycle           the number of the cycle; a reset begins the next one
--   a1_auto_resets     how often the product itself has reset it since a person did
--   notices.cycle      the cycle that a notice is about
--   notices.folded_into  the later notice that takes the place of this one for those who had not got it; what was owed
--                      to them is no longer there, and the event notice_folded names each of them
--   notice_deliveries.owed_since  since when its recipient has waited, by the oldest notice whose place it has taken;
--                      NULL: since it was queued
--
-- Who acts: the settings a1_to_a2.actor, .source and .reason of the transaction, as the tools set them; without them
-- the database user and the application's name.

SET lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

ALTER TABLE campaign_status
    ADD COLUMN IF NOT EXISTS a1_max_retries INTEGER,
    ADD COLUMN IF NOT EXISTS a1_snoozed_until TIMESTAMP WITH TIME ZONE,
    ADD COLUMN IF NOT EXISTS a1_cycle INTEGER DEFAULT 1,
    ADD COLUMN IF NOT EXISTS a1_auto_resets INTEGER DEFAULT 0;

ALTER TABLE notices
    ADD COLUMN IF NOT EXISTS cycle INTEGER,
    ADD COLUMN IF NOT EXISTS folded_into UUID;
ALTER TABLE notice_deliveries ADD COLUMN IF NOT EXISTS owed_since TIMESTAMP WITH TIME ZONE;

CREATE TABLE IF NOT EXISTS campaign_events (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    campaign_id TEXT NOT NULL,
    at          TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT clock_timestamp(),
    kind        TEXT NOT NULL,
    cycle       INTEGER,
    actor       TEXT NOT NULL,
    source      TEXT NOT NULL,
    db_user     TEXT NOT NULL DEFAULT session_user,
    reason      TEXT NOT NULL DEFAULT '',
    detail      JSONB NOT NULL DEFAULT '{}'
);

CREATE INDEX IF NOT EXISTS campaign_events_campaign_idx ON campaign_events (campaign_id, id);
CREATE INDEX IF NOT EXISTS campaign_events_at_idx ON campaign_events (at);
CREATE INDEX IF NOT EXISTS campaign_status_snoozed_idx ON campaign_status (a1_snoozed_until)
    WHERE a1_snoozed_until IS NOT NULL;

-- In one statement, so that no reset is lost which somebody makes meanwhile. Who could read the old table reads the new
-- one. A view of somebody's keeps the old table, which stays empty.
DO $$
DECLARE
    reader oid;
BEGIN
    IF to_regclass('a1_resets') IS NULL THEN
        RETURN;
    END IF;
    LOCK TABLE a1_resets IN ACCESS EXCLUSIVE MODE;
    INSERT INTO campaign_events (campaign_id, at, kind, actor, source, reason, detail)
    SELECT campaign_id, reset_at, 'reset', reset_by, 'a1_retry.py', reason,
           jsonb_build_object('attempts', retry_count_before, 'permanently_failed', was_permanently_failed)
    FROM a1_resets ORDER BY id;
    DELETE FROM a1_resets;
    FOR reader IN
        SELECT DISTINCT x.grantee
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) AS x
        WHERE c.oid = 'a1_resets'::regclass AND x.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT ON campaign_events TO %s',
                       CASE WHEN reader = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(reader)) END);
    END LOOP;
    BEGIN
        DROP TABLE a1_resets;
    EXCEPTION WHEN dependent_objects_still_exist THEN
        RAISE WARNING 'a1_resets stays, and stays empty: %; its rows are in campaign_events (kind reset) now', SQLERRM;
    END;
END
$$;

-- Who acts is the session's user, also where the functions below run with their owner's rights.
CREATE OR REPLACE FUNCTION add_campaign_event(
    which TEXT, what TEXT, in_cycle INTEGER, why TEXT, facts JSONB, happened_at TIMESTAMP WITH TIME ZONE
) RETURNS VOID LANGUAGE sql AS $$
    INSERT INTO campaign_events (campaign_id, at, kind, cycle, actor, source, reason, detail)
    VALUES (which, coalesce(happened_at, clock_timestamp()), what, in_cycle,
            coalesce(nullif(current_setting('a1_to_a2.actor', TRUE), ''), session_user),
            coalesce(nullif(current_setting('a1_to_a2.source', TRUE), ''), current_setting('application_name')),
            coalesce(why, nullif(current_setting('a1_to_a2.reason', TRUE), ''), ''), jsonb_strip_nulls(facts));
$$;

-- Each reset begins the next cycle, a plain UPDATE too. What cannot be is refused, with the cure.
CREATE OR REPLACE FUNCTION campaign_status_before() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF NOT coalesce(NEW.a1_permanently_failed, FALSE)
       AND (coalesce(OLD.a1_permanently_failed, FALSE)
            OR coalesce(OLD.a1_retry_count, 0) > 0 AND coalesce(NEW.a1_retry_count, 0) = 0)
    THEN
        NEW.a1_retry_count := 0; -- also where only the mark was taken away: the cycle has had its notices
        NEW.a1_cycle := coalesce(OLD.a1_cycle, 1) + 1;
        NEW.a1_auto_resets := CASE WHEN current_setting('a1_to_a2.source', TRUE) = 'auto'
                                   THEN coalesce(OLD.a1_auto_resets, 0) + 1 ELSE 0 END;
    END IF;
    IF current_setting('a1_to_a2.source', TRUE) = 'upload' THEN
        NEW.a1_auto_resets := 0;
    END IF;
    IF NEW.a1_max_retries IS DISTINCT FROM OLD.a1_max_retries AND NEW.a1_max_retries NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'a1_max_retries % is not from 1 to 1000', NEW.a1_max_retries
            USING ERRCODE = 'check_violation', HINT = 'NULL brings back the limit that A1_MAX_RETRIES sets.';
    END IF;
    IF NEW.a1_snoozed_until IS DISTINCT FROM OLD.a1_snoozed_until
       AND NEW.a1_snoozed_until > clock_timestamp() + interval '90 days 1 hour'
    THEN
        RAISE EXCEPTION 'a1_snoozed_until % is more than 90 days ahead', NEW.a1_snoozed_until
            USING ERRCODE = 'check_violation', HINT = 'Snooze for 90 days at most; it can be done again then.';
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION campaign_status_after() RETURNS TRIGGER LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    is_new CONSTANT boolean := TG_OP = 'INSERT';
    attempts CONSTANT integer := coalesce(NEW.a1_retry_count, 0);
    is_failed CONSTANT boolean := coalesce(NEW.a1_permanently_failed, FALSE);
    attempts_before integer := 0;
    was_failed boolean := FALSE;
    status_before text;
    last_before timestamptz;
BEGIN
    IF NEW.campaign_id IS NULL THEN -- a row of another program that is not a campaign yet
        RETURN NULL;
    END IF;
    IF NOT is_new THEN
        attempts_before := coalesce(OLD.a1_retry_count, 0);
        was_failed := coalesce(OLD.a1_permanently_failed, FALSE);
        status_before := OLD.status::text;
        last_before := OLD.a1_last_retry_at;
    END IF;
    IF is_new OR NEW.status::text IS DISTINCT FROM status_before THEN
        PERFORM add_campaign_event(NEW.campaign_id, 'status', NEW.a1_cycle, '',
            jsonb_build_object('status', NEW.status, 'before', status_before), NULL);
    END IF;
    IF attempts > attempts_before OR is_failed AND NOT was_failed THEN
        PERFORM add_campaign_event(NEW.campaign_id, 'attempt', NEW.a1_cycle, coalesce(NEW.a1_failure_reason, ''),
            jsonb_build_object('attempt', attempts, 'permanently_failed', is_failed),
            CASE WHEN NEW.a1_last_retry_at IS DISTINCT FROM last_before THEN NEW.a1_last_retry_at END);
    ELSIF NOT is_new AND attempts < attempts_before AND NOT was_failed AND attempts > 0 THEN
        PERFORM add_campaign_event(NEW.campaign_id, 'correction', NEW.a1_cycle, NULL,
            jsonb_build_object('attempts', attempts, 'before', attempts_before), NULL);
    END IF;
    IF is_new THEN
        RETURN NULL;
    END IF;
    IF NEW.a1_cycle IS DISTINCT FROM OLD.a1_cycle THEN
        PERFORM add_campaign_event(NEW.campaign_id, 'reset', OLD.a1_cycle, NULL,
            jsonb_build_object('attempts', attempts_before, 'permanently_failed', was_failed, 'next_cycle', NEW.a1_cycle),
            NULL);
    END IF;
    IF NEW.a1_snoozed_until IS DISTINCT FROM OLD.a1_snoozed_until THEN
        PERFORM add_campaign_event(NEW.campaign_id, CASE WHEN NEW.a1_snoozed_until IS NULL THEN 'wake' ELSE 'snooze' END,
            NEW.a1_cycle, NULL, jsonb_build_object('until', NEW.a1_snoozed_until, 'before', OLD.a1_snoozed_until), NULL);
    END IF;
    IF NEW.a1_max_retries IS DISTINCT FROM OLD.a1_max_retries THEN
        PERFORM add_campaign_event(NEW.campaign_id, 'limit', NEW.a1_cycle, NULL,
            jsonb_build_object('max_retries', NEW.a1_max_retries, 'before', OLD.a1_max_retries), NULL);
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION campaign_errors_after() RETURNS TRIGGER LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM add_campaign_event(NEW.campaign_id, 'error', NULL, NEW.message, jsonb_build_object('kind', NEW.kind), NULL);
    ELSE
        PERFORM add_campaign_event(OLD.campaign_id, 'error_over', NULL, OLD.message,
            jsonb_build_object('kind', OLD.kind, 'began_at', OLD.began_at), NULL);
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION campaign_uploads_after() RETURNS TRIGGER LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM add_campaign_event(NEW.campaign_id, 'upload', NULL, '',
        jsonb_build_object('assets', NEW.assets, 'bytes', NEW.bytes, 'run_id', NEW.run_id), NULL);
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION notices_after() RETURNS TRIGGER LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM add_campaign_event(NEW.campaign_id, 'notice', NEW.cycle, '',
        jsonb_build_object('notice_id', NEW.id, 'kind', NEW.kind, 'subject', NEW.subject), NEW.created_at);
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION notice_deliveries_after() RETURNS TRIGGER LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    n record;
BEGIN
    SELECT campaign_id, kind, cycle INTO n FROM notices WHERE id = NEW.notice_id AND campaign_id <> '';
    IF FOUND THEN
        PERFORM add_campaign_event(n.campaign_id,
            CASE WHEN NEW.gave_up_at IS NULL THEN 'notice_sent' ELSE 'notice_given_up' END, n.cycle,
            coalesce(NEW.last_error, ''),
            jsonb_build_object('notice_id', NEW.notice_id, 'kind', n.kind, 'recipient', NEW.recipient),
            coalesce(NEW.gave_up_at, NEW.sent_at));
    END IF;
    RETURN NULL;
END
$$;

-- A delivery that goes while it is owed is one that a later notice takes the place of.
CREATE OR REPLACE FUNCTION notice_deliveries_folded() RETURNS TRIGGER LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    n record;
BEGIN
    SELECT campaign_id, kind, cycle, folded_into INTO n FROM notices
    WHERE id = OLD.notice_id AND campaign_id <> '' AND folded_into IS NOT NULL;
    IF FOUND THEN
        PERFORM add_campaign_event(n.campaign_id, 'notice_folded', n.cycle, '',
            jsonb_build_object('notice_id', OLD.notice_id, 'kind', n.kind, 'recipient', OLD.recipient,
                               'into', n.folded_into), NULL);
    END IF;
    RETURN NULL;
END
$$;

-- PostgreSQL 13 has no CREATE OR REPLACE TRIGGER.
DROP TRIGGER IF EXISTS campaign_status_before ON campaign_status;
CREATE TRIGGER campaign_status_before BEFORE UPDATE ON campaign_status
    FOR EACH ROW EXECUTE FUNCTION campaign_status_before();
DROP TRIGGER IF EXISTS campaign_status_after ON campaign_status;
CREATE TRIGGER campaign_status_after AFTER INSERT OR UPDATE ON campaign_status
    FOR EACH ROW EXECUTE FUNCTION campaign_status_after();
DROP TRIGGER IF EXISTS campaign_errors_after ON campaign_errors;
CREATE TRIGGER campaign_errors_after AFTER INSERT OR DELETE ON campaign_errors
    FOR EACH ROW EXECUTE FUNCTION campaign_errors_after();
DROP TRIGGER IF EXISTS campaign_uploads_after ON campaign_uploads;
CREATE TRIGGER campaign_uploads_after AFTER INSERT ON campaign_uploads
    FOR EACH ROW EXECUTE FUNCTION campaign_uploads_after();
DROP TRIGGER IF EXISTS notices_after ON notices;
CREATE TRIGGER notices_after AFTER INSERT ON notices
    FOR EACH ROW WHEN (NEW.campaign_id <> '') EXECUTE FUNCTION notices_after();
DROP TRIGGER IF EXISTS notice_deliveries_after ON notice_deliveries;
CREATE TRIGGER notice_deliveries_after AFTER UPDATE OF sent_at, gave_up_at ON notice_deliveries
    FOR EACH ROW WHEN (NEW.sent_at IS DISTINCT FROM OLD.sent_at OR NEW.gave_up_at IS DISTINCT FROM OLD.gave_up_at)
    EXECUTE FUNCTION notice_deliveries_after();
DROP TRIGGER IF EXISTS notice_deliveries_folded ON notice_deliveries;
CREATE TRIGGER notice_deliveries_folded AFTER DELETE ON notice_deliveries
    FOR EACH ROW WHEN (OLD.sent_at IS NULL AND OLD.gave_up_at IS NULL) EXECUTE FUNCTION notice_deliveries_folded();

-- The triggers write with the rights of their owner, so that somebody who may change a campaign needs none on the table
-- of events, and nobody can write an event by hand. They look nowhere but where these tables are.
REVOKE ALL ON FUNCTION add_campaign_event(TEXT, TEXT, INTEGER, TEXT, JSONB, TIMESTAMP WITH TIME ZONE) FROM PUBLIC;
DO $$
DECLARE
    the_schema CONSTANT text := (SELECT relnamespace::regnamespace FROM pg_class
                                 WHERE oid = 'campaign_events'::regclass);
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['campaign_status_after', 'campaign_errors_after', 'campaign_uploads_after',
                                'notices_after', 'notice_deliveries_after', 'notice_deliveries_folded']
    LOOP
        EXECUTE format('ALTER FUNCTION %I() SET search_path = %s, pg_temp', name, the_schema);
    END LOOP;
END
$$;

-- A role that writes what runs write (roles.sql granted it that before this table existed) also prunes, and folds.
DO $$
DECLARE
    writer oid;
    name text;
BEGIN
    FOR writer IN
        SELECT DISTINCT x.grantee
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) AS x
        WHERE c.oid = 'run_epochs'::regclass AND x.privilege_type = 'UPDATE' AND x.grantee <> c.relowner
    LOOP
        name := CASE WHEN writer = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(writer)) END;
        EXECUTE format('GRANT SELECT, DELETE ON campaign_events TO %s', name);
        EXECUTE format('GRANT UPDATE (folded_into) ON notices TO %s', name);
        EXECUTE format('GRANT DELETE ON notice_deliveries TO %s', name);
    END LOOP;
END
$$;

INSERT INTO schema_migrations (name) VALUES ('023_create_campaign_events') ON CONFLICT DO NOTHING;

RESET lock_timeout;
