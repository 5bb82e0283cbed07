-- The common part of reset_one.sql, reset_all_failed.sql and reset_digest.sql.
BEGIN;
\ir reset_note.sql
\ir reset.sql
COMMIT;
