-- Who may work on a campaign: one row a campaign, and the number of its latest holder. A run that begins to work
-- on a campaign adds one. Each write that concerns the campaign holds the row in its own transaction. A run that
-- another one has followed is refused there, with the SQLSTATE A1002.

SET lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

CREATE TABLE IF NOT EXISTS campaign_epochs (
    campaign_id TEXT PRIMARY KEY,
    epoch       BIGINT NOT NULL,
    holder      TEXT NOT NULL,
    taken_at    TIMESTAMP WITH TIME ZONE NOT NULL
);

-- FOR SHARE: nobody else can take the next number until the transaction ends.
CREATE OR REPLACE FUNCTION hold_campaign(which TEXT, mine BIGINT) RETURNS VOID LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM campaign_epochs WHERE campaign_id = which AND epoch = mine FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'holder number % no longer works on campaign %', mine, which USING ERRCODE = 'A1002';
    END IF;
END
$$;

-- A role that writes what runs write (roles.sql granted it that before this table existed).
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
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON campaign_epochs TO %s', name);
        EXECUTE format('GRANT EXECUTE ON FUNCTION hold_campaign(TEXT, BIGINT) TO %s', name);
    END LOOP;
END
$$;

INSERT INTO schema_migrations (name) VALUES ('021_create_campaign_epochs') ON CONFLICT DO NOTHING;

RESET lock_timeout;
