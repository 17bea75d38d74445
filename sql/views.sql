-- What was used. Installed by scripts/install-views.sh, which fills the placeholders:
--   ${dataset}      project.dataset of the views, that of settings.sql among them
--   ${usage_table}  project.dataset.table that the gateway writes
-- A view keeps the columns that the table had when it was made: run the script again after an upgrade.

-- The rows, each request once: a row that was sent twice may stand in the table twice.
-- `started_at` never changes on a re-send. It is a partition of the window, so that a filter on it can
-- be taken below the window, to the days that it names.
CREATE OR REPLACE VIEW `${dataset}.usage_unique` AS
SELECT *
FROM `${usage_table}`
WHERE TRUE
QUALIFY ROW_NUMBER() OVER (PARTITION BY request_id, started_at ORDER BY finished_at) = 1;

-- Calls and tokens per day (UTC), team, key or user, and model.
-- `wakes` are the calls that started a model server; `counted_tokens` are those that the engine counted
-- itself, the others are estimates.
CREATE OR REPLACE VIEW `${dataset}.usage_daily` AS
WITH calls AS (
  SELECT
    u.*,
    DATE(u.started_at) AS day,
    (SELECT l.value FROM UNNEST(u.labels) AS l WHERE l.key = s.team_label LIMIT 1) AS team
  FROM `${dataset}.usage_unique` AS u
  CROSS JOIN `${dataset}.usage_settings` AS s
)
SELECT
  day,
  team,
  principal,
  key_name,
  username,
  model,
  COUNT(*) AS calls,
  COUNTIF(outcome != 'complete') AS incomplete_calls,
  SUM(IF(woke, 1, 0)) AS wakes,
  SUM(prompt_tokens) AS prompt_tokens,
  SUM(cached_tokens) AS cached_tokens,
  SUM(completion_tokens) AS completion_tokens,
  SUM(total_tokens) AS total_tokens,
  SUM(IF(counted_by = 'engine', total_tokens, 0)) AS counted_tokens
FROM calls
GROUP BY day, team, principal, key_name, username, model;
