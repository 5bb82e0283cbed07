-- The campaigns that people mean by what they type:  psql -v words='{C-1001,summer}' -f database/queries/find.sql
-- A word is an id, else a number, else a name, else the beginning of a name: only the best kind of match of each word
-- counts. The beginning of a number is not enough: C-100 must never mean C-1001.
-- Only ids are case-sensitive. total: all that match; most: at most this many of them are returned.
\if :{?most} \else \set most 20 \endif
WITH asked AS (
    SELECT DISTINCT word FROM unnest(:'words'::text[]) AS word
), ids AS (
    SELECT word, campaign_id FROM asked JOIN campaign_status ON campaign_id = word
    UNION SELECT word, campaign_id FROM asked JOIN campaign_errors ON campaign_id = word
), others AS (
    SELECT word, lower(word) AS lowered FROM asked WHERE word <> '' AND word NOT IN (SELECT word FROM ids)
), numbers AS (
    SELECT word, campaign_id FROM others JOIN campaign_status ON lower(campaign_number) = lowered
), names AS (
    SELECT word, campaign_id FROM others JOIN campaign_status ON lower(campaign_name) = lowered
    WHERE word NOT IN (SELECT word FROM numbers)
), beginnings AS (
    SELECT word, campaign_id
    FROM others JOIN campaign_status ON starts_with(lower(campaign_name), lowered)
    WHERE word NOT IN (SELECT word FROM numbers UNION ALL SELECT word FROM names)
), matching AS (
    SELECT * FROM ids UNION SELECT * FROM numbers UNION SELECT * FROM names UNION SELECT * FROM beginnings
)
SELECT word, campaign_id, total
FROM (SELECT word, campaign_id, row_number() OVER (PARTITION BY word ORDER BY campaign_id) AS place,
             count(*) OVER (PARTITION BY word) AS total
      FROM matching) counted
WHERE place <= :'most'::int
ORDER BY word, place;
