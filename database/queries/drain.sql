-- Ask a worker, or all workers of a host, to stop: each finishes the files in hand, gives the rest back, and ends with
-- exit code 0. One that has already been asked is not changed.
--   psql -v name=HOST -f database/queries/drain.sql
\if :{?who} \else \set who '' \endif
UPDATE workers
SET drain_asked_at = now(), drain_asked_by = coalesce(nullif(:'who', ''), session_user)
WHERE (worker = :'name' OR host = :'name') AND drain_asked_at IS NULL
RETURNING worker, host;
