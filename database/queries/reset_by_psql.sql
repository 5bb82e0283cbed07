-- What reset_one.sql, reset_all_failed.sql and reset_digest.sql have in common. A person whose role may not write
-- to a1_resets resets all the same, and is told that nobody will see who did it.
SELECT has_table_privilege('a1_resets', 'INSERT') AS may_note \gset
BEGIN;
\if :may_note
\ir reset_note.sql
\else
\warn 'not noted in a1_resets, for lack of a right: GRANT INSERT ON a1_resets TO' :who
\endif
\ir reset.sql
COMMIT;
