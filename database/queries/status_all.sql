-- Every campaign that has spent an attempt, fails with an error or is snoozed; newest first.
-- With -v ids='{ID,…}' only those, in any state.
\if :{?ids} \else \set ids {} \endif
SELECT listed.campaign_id, s.campaign_number, s.campaign_name, s.status, s.a1_retry_count, s.a1_permanently_failed,
       s.a1_last_retry_at, s.a1_failure_reason, e.began_at AS error_since, e.last_seen_at AS error_seen_at,
       e.kind AS error_kind, e.message AS error, s.a1_max_retries, s.a1_cycle, s.a1_auto_resets, s.a1_snoozed_until,
       z.at AS snoozed_at, z.actor AS snoozed_by, z.reason AS snooze_reason
FROM (SELECT campaign_id FROM campaign_status
      WHERE cardinality(:'ids'::text[]) = 0
        AND (a1_retry_count > 0 OR a1_permanently_failed OR a1_snoozed_until > now())
      UNION SELECT campaign_id FROM campaign_errors WHERE cardinality(:'ids'::text[]) = 0
      UNION SELECT unnest(:'ids'::text[])) listed
LEFT JOIN campaign_status s ON s.campaign_id = listed.campaign_id
LEFT JOIN LATERAL (SELECT * FROM campaign_errors WHERE campaign_id = listed.campaign_id
                   ORDER BY last_seen_at DESC LIMIT 1) e ON TRUE
LEFT JOIN LATERAL (SELECT at, actor, reason FROM campaign_events v
                   WHERE s.a1_snoozed_until > now() AND campaign_id = listed.campaign_id AND kind = 'snooze'
                     AND NOT EXISTS (SELECT FROM campaign_events u
                                     WHERE u.campaign_id = v.campaign_id AND u.kind = 'undo'
                                       AND u.detail ->> 'undoes' = v.detail ->> 'act')
                   ORDER BY id DESC LIMIT 1) z ON TRUE
WHERE s.campaign_id IS NOT NULL OR e.campaign_id IS NOT NULL
ORDER BY greatest(s.a1_last_retry_at, e.last_seen_at, z.at) DESC NULLS LAST, listed.campaign_id;
