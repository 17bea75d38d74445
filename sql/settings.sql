-- What the other views are told. Installed by scripts/install-views.sh, which fills the placeholders:
--   ${dataset}  project.dataset of the views
--   ${project}  the project that runs the services

-- Everything that is a choice, in one row. Change it here and install again.
CREATE OR REPLACE VIEW `${dataset}.usage_settings` AS
SELECT
  -- What a token weighs. A prompt is read many tokens at a time, an answer is written one by one, a
  -- cached token costs hardly more than its look-up. Whole numbers, so that sums are exact.
  10 AS prompt_weight,
  1 AS cached_weight,
  40 AS completion_weight,
  -- The label that says who pays.
  'team' AS team_label,
  -- The services on the bill: those of this project with this label.
  '${project}' AS project_id,
  'application' AS bill_label,
  'vllm-inference' AS bill_value,
  -- A model server with this label is paid by its own callers alone, all else by all callers. Its
  -- value is the upstream of the rows, lower-case, other characters than letters and digits as `-`.
  'upstream' AS upstream_label,
  -- Days and months of the bill end at midnight here, not in UTC.
  'America/Los_Angeles' AS bill_timezone,
  -- Calls that one instance takes at once: containerConcurrency of the model server.
  16 AS calls_per_instance;
