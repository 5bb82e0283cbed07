-- What reset_one.sql, reset_all_failed.sql and reset_digest.sql have in common.
BEGIN;
\ir reset_note.sql
\ir reset.sql
COMMIT;
