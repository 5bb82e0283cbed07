-- Mends a campaign_status that is older than the product, as far as that can be done while others use it. What it
-- leaves is named by a WARNING here, and by database/queries/preflight.sql from then on, with the cure.
--
--   columns that 001 would have made, and defaults           a change of the catalogue
--   varchar(n) becomes text                                  a change of the catalogue, no row is touched
--   char(n) becomes text, times get their zone, NULLs go     up to 32 MB of rows, since each row is written anew
--   the unique key over campaign_id                          up to 32 MB, if no id stands in two rows
--   EXECUTE on hold_run for the roles that may write         where default privileges do not give it to everybody
--
-- A time without zone is taken for one of the session's time zone, which is the server's. If the program that wrote
-- them thought otherwise: PGTZ=Europe/Rome psql ... -f, or PGTZ=Europe/Rome python scripts/migrate.py.

SET lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

ALTER TABLE campaign_status
    ADD COLUMN IF NOT EXISTS campaign_number TEXT,
    ADD COLUMN IF NOT EXISTS campaign_name TEXT,
    ADD COLUMN IF NOT EXISTS status TEXT,
    ADD COLUMN IF NOT EXISTS created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS updated_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now();

-- Types. An index over a varchar serves the text as it is; a view, a trigger, a policy, a generated column or a parent
-- table forbids the change. A CHECK is proved again for each row, and an index over times is built anew.
DO $$
DECLARE
    is_small CONSTANT boolean := pg_relation_size('campaign_status') <= 32 * 1024 * 1024;
    is_utc CONSTANT boolean := current_setting('TimeZone') IN ('UTC', 'Etc/UTC', 'GMT');
    c record;
    has_changed boolean := FALSE;
BEGIN
    FOR c IN
        SELECT a.attname, n.type, format_type(a.atttypid, a.atttypmod) AS shown,
               (a.atttypid = 'varchar'::regtype OR a.atttypid = 'timestamp'::regtype AND is_utc
                    AND NOT EXISTS (SELECT FROM pg_index i
                                    WHERE i.indrelid = a.attrelid AND a.attnum = ANY (i.indkey::int2[])))
               AND NOT EXISTS (SELECT FROM pg_constraint k
                               WHERE k.conrelid = a.attrelid AND k.contype = 'c' AND a.attnum = ANY (k.conkey))
               AS is_catalogue_only
        FROM (VALUES ('campaign_id', 'text'), ('campaign_number', 'text'), ('campaign_name', 'text'), ('status', 'text'),
                     ('a1_failure_reason', 'text'), ('box_folder_id', 'text'),
                     ('created_at', 'timestamptz'), ('updated_at', 'timestamptz'), ('a1_last_retry_at', 'timestamptz'),
                     ('a2_requested_at', 'timestamptz'), ('left_search_at', 'timestamptz'),
                     ('lock_doubted_at', 'timestamptz')) AS n (name, type)
        JOIN pg_attribute a ON a.attrelid = 'campaign_status'::regclass AND a.attname = n.name AND NOT a.attisdropped
        WHERE n.type = 'text' AND (a.atttypid = 'varchar'::regtype AND a.atttypmod > 0 OR a.atttypid = 'bpchar'::regtype)
           OR n.type = 'timestamptz' AND a.atttypid = 'timestamp'::regtype
    LOOP
        IF NOT is_small AND NOT c.is_catalogue_only THEN
            RAISE WARNING 'campaign_status.% stays %: the table is too large to change it while it is in use; in a quiet hour: ALTER TABLE campaign_status ALTER COLUMN % TYPE %',
                c.attname, c.shown, c.attname, c.type;
            CONTINUE;
        END IF;
        BEGIN
            EXECUTE format('ALTER TABLE campaign_status ALTER COLUMN %I TYPE %s', c.attname, c.type);
            has_changed := TRUE;
        EXCEPTION
            WHEN feature_not_supported OR dependent_objects_still_exist OR datatype_mismatch
                OR undefined_function OR check_violation OR invalid_table_definition -- inherited, or of a partition key
                OR syntax_error -- what a generated column brings before PostgreSQL 15
            THEN
                RAISE WARNING 'campaign_status.% stays %: %', c.attname, c.shown, SQLERRM;
        END;
    END LOOP;
    IF has_changed THEN
        ANALYZE campaign_status; -- the old statistics went with the old types
    END IF;
END
$$;

-- Defaults for what the product leaves out of its INSERTs, and room for the NULLs that it writes.
DO $$
DECLARE
    c record;
BEGIN
    FOR c IN
        SELECT a.attname, n.preset
        FROM (VALUES ('created_at', 'now()'), ('updated_at', 'now()'), ('a1_retry_count', '0'),
                     ('a1_permanently_failed', 'FALSE')) AS n (name, preset)
        JOIN pg_attribute a ON a.attrelid = 'campaign_status'::regclass AND a.attname = n.name AND NOT a.attisdropped
        WHERE NOT a.atthasdef AND a.attidentity = ''
    LOOP
        EXECUTE format('ALTER TABLE campaign_status ALTER COLUMN %I SET DEFAULT %s', c.attname, c.preset);
    END LOOP;
    FOR c IN
        SELECT a.attname FROM pg_attribute a
        WHERE a.attrelid = 'campaign_status'::regclass AND a.attnotnull AND NOT a.attisdropped
          AND a.attname IN ('a1_last_retry_at', 'a1_failure_reason', 'box_folder_id', 'a2_requested_at',
                            'left_search_at', 'lock_doubted_at')
    LOOP
        EXECUTE format('ALTER TABLE campaign_status ALTER COLUMN %I DROP NOT NULL', c.attname);
    END LOOP;
END
$$;

-- The product reads a NULL as 0 and FALSE; people's own queries need not.
DO $$
BEGIN
    IF pg_relation_size('campaign_status') <= 32 * 1024 * 1024 THEN
        UPDATE campaign_status
        SET a1_retry_count = coalesce(a1_retry_count, 0), a1_permanently_failed = coalesce(a1_permanently_failed, FALSE)
        WHERE a1_retry_count IS NULL OR a1_permanently_failed IS NULL;
    END IF;
EXCEPTION
    WHEN integrity_constraint_violation OR check_violation OR not_null_violation OR foreign_key_violation
        OR raise_exception OR insufficient_privilege OR datatype_mismatch
    THEN
        RAISE WARNING 'campaign_status keeps its NULLs in a1_retry_count and a1_permanently_failed: %', SQLERRM;
END
$$;

-- The unique key that each INSERT ... ON CONFLICT (campaign_id) needs. A deferrable one does not serve; it stays, since
-- another program may count on it, and another key beside it would not help.
DO $$
DECLARE
    half_built regclass;
    twice text;
BEGIN
    IF EXISTS (SELECT FROM pg_index i
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
               WHERE i.indrelid = 'campaign_status'::regclass AND i.indisunique AND i.indisvalid
                 AND i.indnkeyatts = 1 AND i.indpred IS NULL AND a.attname = 'campaign_id')
    THEN
        RETURN;
    END IF;
    IF pg_relation_size('campaign_status') > 32 * 1024 * 1024 THEN
        RAISE WARNING 'campaign_status has no unique key over campaign_id, and is too large to get one while it is in use like this: CREATE UNIQUE INDEX CONCURRENTLY ON campaign_status (campaign_id)';
        RETURN;
    END IF;
    LOCK TABLE campaign_status IN SHARE MODE; -- what the index needs; nobody adds a second row meanwhile
    SELECT string_agg(quote_literal(campaign_id), ', ') INTO twice
    FROM (SELECT campaign_id FROM campaign_status GROUP BY campaign_id HAVING count(campaign_id) > 1
          ORDER BY campaign_id LIMIT 10) AS rows;
    IF twice IS NOT NULL THEN
        RAISE WARNING 'campaign_status has no unique key over campaign_id, because several rows have the id %; leave one row of each, then: CREATE UNIQUE INDEX CONCURRENTLY ON campaign_status (campaign_id)', twice;
        RETURN;
    END IF;
    FOR half_built IN
        SELECT i.indexrelid FROM pg_index i
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = 'campaign_status'::regclass AND NOT i.indisvalid AND i.indnkeyatts = 1
          AND a.attname = 'campaign_id'
    LOOP
        EXECUTE format('DROP INDEX %s', half_built);
    END LOOP;
    CREATE UNIQUE INDEX ON campaign_status (campaign_id);
END
$$;

DO $$
DECLARE
    writer oid;
BEGIN
    FOR writer IN
        SELECT DISTINCT x.grantee
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) AS x
        WHERE c.oid = 'run_epochs'::regclass AND x.privilege_type = 'UPDATE'
          AND NOT has_function_privilege(x.grantee, 'hold_run(integer, bigint)', 'EXECUTE')
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION hold_run(INTEGER, BIGINT) TO %s',
                       CASE WHEN writer = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(writer)) END);
    END LOOP;
END
$$;

INSERT INTO schema_migrations (name) VALUES ('018_mend_old_tables') ON CONFLICT DO NOTHING;

RESET lock_timeout;
