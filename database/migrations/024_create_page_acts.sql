-- What people do on the operator's page, and how it is taken back.
--   page_acts            one row a request: who, from where, when, what, why, on which filter, with which outcome. Its id
--                        is that of the request, so that the same one does nothing the second time. asked: a digest of
--                        all that was asked. done, skipped: how many campaigns or e-mails were changed, and {why: how
--                        many were not}. undo_…: of what was given back
--   page_act_campaigns   how each campaign stood before the act, for the undo
--   page_sessions        who is logged in. token_hash: of what the browser has. fingerprint: of the line in the users'
--                        file, so that another password ends the session
--   campaign_events      detail.act: the act of the page that an event comes from. Kind undo: what was given back, by
--                        the act detail.undoes. Kind resend: an e-mail is owed again
--
-- The transaction says so by its settings a1_to_a2.act and a1_to_a2.undo. While a1_to_a2.undo is set, each UPDATE of a
-- campaign leaves that one event, whoever sets it.

SET lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

CREATE TABLE IF NOT EXISTS page_acts (
    id           UUID PRIMARY KEY,
    at           TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    person       TEXT NOT NULL,
    peer         TEXT NOT NULL,
    act          TEXT NOT NULL,
    reason       TEXT NOT NULL,
    filter       JSONB NOT NULL,
    value        TEXT NOT NULL,
    drawn_at     TIMESTAMP WITH TIME ZONE NOT NULL,
    asked        TEXT NOT NULL,
    done         INTEGER NOT NULL DEFAULT 0,
    skipped      JSONB NOT NULL DEFAULT '{}',
    undone_at    TIMESTAMP WITH TIME ZONE,
    undone_by    TEXT,
    undone_from  TEXT,
    undo_reason  TEXT,
    undo_done    INTEGER,
    undo_skipped JSONB
);

CREATE TABLE IF NOT EXISTS page_act_campaigns (
    act_id                UUID NOT NULL REFERENCES page_acts (id) ON DELETE CASCADE,
    campaign_id           TEXT NOT NULL,
    at                    TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    a1_retry_count        INTEGER,
    a1_last_retry_at      TIMESTAMP WITH TIME ZONE,
    a1_permanently_failed BOOLEAN,
    a1_failure_reason     TEXT,
    a1_max_retries        INTEGER,
    a1_snoozed_until      TIMESTAMP WITH TIME ZONE,
    a1_cycle              INTEGER,
    a1_auto_resets        INTEGER,
    PRIMARY KEY (act_id, campaign_id)
);

CREATE TABLE IF NOT EXISTS page_sessions (
    token_hash  TEXT PRIMARY KEY,
    person      TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    created_at  TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    expires_at  TIMESTAMP WITH TIME ZONE NOT NULL
);

CREATE INDEX IF NOT EXISTS page_acts_at_idx ON page_acts (at);
CREATE INDEX IF NOT EXISTS page_act_campaigns_at_idx ON page_act_campaigns (at);
CREATE INDEX IF NOT EXISTS page_sessions_expires_idx ON page_sessions (expires_at);

-- The page's list, the latest change first. 018 adds the column to a table that is older than the product; the list must
-- not depend on that.
ALTER TABLE campaign_status ADD COLUMN IF NOT EXISTS updated_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now();
CREATE INDEX IF NOT EXISTS campaign_status_updated_idx
    ON campaign_status (updated_at DESC NULLS LAST, campaign_id);

-- As in 023; detail names the act of the page.
CREATE OR REPLACE FUNCTION add_campaign_event(
    which TEXT, what TEXT, in_cycle INTEGER, why TEXT, facts JSONB, happened_at TIMESTAMP WITH TIME ZONE
) RETURNS VOID LANGUAGE sql AS $$
    INSERT INTO campaign_events (campaign_id, at, kind, cycle, actor, source, reason, detail)
    VALUES (which, coalesce(happened_at, clock_timestamp()), what, in_cycle,
            coalesce(nullif(current_setting('a1_to_a2.actor', TRUE), ''), session_user),
            coalesce(nullif(current_setting('a1_to_a2.source', TRUE), ''), current_setting('application_name')),
            coalesce(why, nullif(current_setting('a1_to_a2.reason', TRUE), ''), ''),
            jsonb_strip_nulls(facts || jsonb_build_object(
                'act', nullif(current_setting('a1_to_a2.act', TRUE), ''))));
$$;

-- As in 023, and what an undo gives back is one event. In one statement with its search_path, as a function that writes
-- with the rights of its owner must never be without one.
DO $$
BEGIN
    CREATE OR REPLACE FUNCTION campaign_status_after() RETURNS TRIGGER LANGUAGE plpgsql SECURITY DEFINER AS $body$
    DECLARE
        is_new CONSTANT boolean := TG_OP = 'INSERT';
        attempts CONSTANT integer := coalesce(NEW.a1_retry_count, 0);
        is_failed CONSTANT boolean := coalesce(NEW.a1_permanently_failed, FALSE);
        attempts_before integer := 0;
        was_failed boolean := FALSE;
        status_before text;
        last_before timestamptz;
        undone CONSTANT text := coalesce(current_setting('a1_to_a2.undo', TRUE), '');
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
        IF undone <> '' AND NOT is_new THEN
            PERFORM add_campaign_event(NEW.campaign_id, 'undo', NEW.a1_cycle, NULL,
                jsonb_build_object('undoes', undone, 'attempts', attempts, 'permanently_failed', is_failed,
                    'undone_cycle', OLD.a1_cycle, 'until', NEW.a1_snoozed_until, 'max_retries', NEW.a1_max_retries,
                    'limit_before', CASE WHEN NEW.a1_max_retries IS DISTINCT FROM OLD.a1_max_retries
                                         THEN coalesce(OLD.a1_max_retries, 0) END), NULL);
            IF coalesce(NEW.a1_cycle <= OLD.a1_cycle, TRUE) THEN -- else it was a reset, which is never hidden
                RETURN NULL;
            END IF;
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
    $body$;
    EXECUTE format('ALTER FUNCTION campaign_status_after() SET search_path = %s, pg_temp',
                   (SELECT relnamespace::regnamespace FROM pg_class WHERE oid = 'campaign_events'::regclass));
END
$$;

-- As in 023, and an e-mail that is owed again is one that was resent.
DO $$
BEGIN
    CREATE OR REPLACE FUNCTION notice_deliveries_after() RETURNS TRIGGER LANGUAGE plpgsql SECURITY DEFINER AS $body$
    DECLARE
        n record;
        is_resent CONSTANT boolean := NEW.sent_at IS NULL AND NEW.gave_up_at IS NULL;
    BEGIN
        SELECT campaign_id, kind, cycle INTO n FROM notices WHERE id = NEW.notice_id AND campaign_id <> '';
        IF FOUND THEN
            PERFORM add_campaign_event(n.campaign_id,
                CASE WHEN is_resent THEN 'resend' WHEN NEW.gave_up_at IS NULL THEN 'notice_sent'
                     ELSE 'notice_given_up' END, n.cycle,
                CASE WHEN NOT is_resent THEN coalesce(NEW.last_error, '') END,
                jsonb_build_object('notice_id', NEW.notice_id, 'kind', n.kind, 'recipient', NEW.recipient),
                coalesce(NEW.gave_up_at, NEW.sent_at));
        END IF;
        RETURN NULL;
    END
    $body$;
    EXECUTE format('ALTER FUNCTION notice_deliveries_after() SET search_path = %s, pg_temp',
                   (SELECT relnamespace::regnamespace FROM pg_class WHERE oid = 'campaign_events'::regclass));
END
$$;

-- An e-mail that waits, and is to be tried at once.
DROP TRIGGER IF EXISTS notice_deliveries_resent ON notice_deliveries;
CREATE TRIGGER notice_deliveries_resent AFTER UPDATE OF tries ON notice_deliveries
    FOR EACH ROW WHEN (NEW.tries < OLD.tries AND NEW.sent_at IS NULL AND NEW.gave_up_at IS NULL
                       AND OLD.sent_at IS NULL AND OLD.gave_up_at IS NULL)
    EXECUTE FUNCTION notice_deliveries_after();

-- A role that writes what runs write (roles.sql granted it that before these tables existed) also prunes them.
DO $$
DECLARE
    writer oid;
BEGIN
    FOR writer IN
        SELECT DISTINCT x.grantee
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) AS x
        WHERE c.oid = 'run_epochs'::regclass AND x.privilege_type = 'UPDATE' AND x.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT, DELETE ON page_acts, page_act_campaigns, page_sessions TO %s',
                       CASE WHEN writer = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(writer)) END);
    END LOOP;
END
$$;

INSERT INTO schema_migrations (name) VALUES ('024_create_page_acts') ON CONFLICT DO NOTHING;

RESET lock_timeout;
