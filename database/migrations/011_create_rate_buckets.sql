-- How many calls went to Box in each of the last seconds, for all runs together (scripts/shared/rate.py).
--   second        seconds since the epoch, by this server's clock; counts[1] belongs to it, counts[2] to the
--                 second before, and so on
--   paused_until  nobody calls before: Box answered 429

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

CREATE TABLE IF NOT EXISTS rate_buckets (
    bucket       TEXT PRIMARY KEY,
    second       BIGINT NOT NULL DEFAULT 0,
    counts       INTEGER[] NOT NULL DEFAULT '{}',
    paused_until DOUBLE PRECISION NOT NULL DEFAULT 0
);

INSERT INTO schema_migrations (name) VALUES ('011_create_rate_buckets') ON CONFLICT DO NOTHING;
