-- What a run must remember of a campaign's way to Box and out of A1.
--   box_folder_id    the campaign's folder in Box, found again after somebody renamed or moved it
--   a2_requested_at  set before the DAM is asked to say A2, so that a run killed in between is finished later
--   left_search_at   when the DAM's search stopped showing the campaign as A1, so that it is re-read once

SET lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

ALTER TABLE campaign_status
    ADD COLUMN IF NOT EXISTS box_folder_id TEXT,
    ADD COLUMN IF NOT EXISTS a2_requested_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN IF NOT EXISTS left_search_at TIMESTAMP WITH TIME ZONE;

-- Two campaigns of the same number and name never share a folder.
CREATE UNIQUE INDEX IF NOT EXISTS campaign_status_box_folder_idx ON campaign_status (box_folder_id)
    WHERE box_folder_id IS NOT NULL;

INSERT INTO schema_migrations (name) VALUES ('006_add_transfer_tracking') ON CONFLICT DO NOTHING;

RESET lock_timeout;
