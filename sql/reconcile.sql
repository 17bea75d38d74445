-- Brings rows that only the log has into the table of usage: what the gateway logged when a call
-- settled, and could not deliver before it ended. Running it twice adds nothing.
--   ${usage_table}  project.dataset.table that the gateway writes
--   ${log_table}    project.dataset.run_googleapis_com_stdout, where a log sink writes; partitioned
--   @since          TIMESTAMP; older log lines are not looked at
--
-- It only inserts: rows that were streamed in lately cannot be touched by other statements. The last
-- two hours are left alone, as a row that waits in a gateway would come twice.
--
-- The columns come out of JSON text, not out of `jsonPayload.usage.COLUMN`: a log sink makes a column
-- when it sees its first value, and a name that was never logged would refuse the whole statement. It
-- also keeps all numbers as FLOAT64 and all times as STRING.
INSERT INTO `${usage_table}` (
  request_id, client_request_id, started_at, finished_at, principal, key_name, key_id, username,
  model, served_model, upstream, endpoint, stream, status, outcome, error_code,
  prompt_tokens, cached_tokens, completion_tokens, total_tokens, counted_by, attempts, wait_ms,
  first_byte_ms, duration_ms, request_bytes, response_bytes, client, service, revision, instance_id,
  region, labels, woke
)
WITH logged AS (
  SELECT
    TO_JSON_STRING(entry.jsonPayload.usage) AS usage,
    entry.timestamp
  FROM `${log_table}` AS entry
  WHERE entry.timestamp >= @since
    AND entry.timestamp < TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 2 HOUR)
    AND entry.jsonPayload.message = 'usage'
),
settled AS (
  SELECT
    usage,
    JSON_VALUE(usage, '$.request_id') AS request_id,
    SAFE_CAST(JSON_VALUE(usage, '$.started_at') AS TIMESTAMP) AS started_at
  FROM logged
  WHERE TRUE
  QUALIFY ROW_NUMBER() OVER (PARTITION BY JSON_VALUE(usage, '$.request_id') ORDER BY timestamp) = 1
)
SELECT
  s.request_id,
  JSON_VALUE(s.usage, '$.client_request_id'),
  s.started_at,
  CAST(JSON_VALUE(s.usage, '$.finished_at') AS TIMESTAMP),
  JSON_VALUE(s.usage, '$.principal'),
  JSON_VALUE(s.usage, '$.key_name'),
  JSON_VALUE(s.usage, '$.key_id'),
  JSON_VALUE(s.usage, '$.username'),
  JSON_VALUE(s.usage, '$.model'),
  JSON_VALUE(s.usage, '$.served_model'),
  JSON_VALUE(s.usage, '$.upstream'),
  JSON_VALUE(s.usage, '$.endpoint'),
  CAST(JSON_VALUE(s.usage, '$.stream') AS BOOL),
  CAST(CAST(JSON_VALUE(s.usage, '$.status') AS FLOAT64) AS INT64),
  JSON_VALUE(s.usage, '$.outcome'),
  JSON_VALUE(s.usage, '$.error_code'),
  CAST(CAST(JSON_VALUE(s.usage, '$.prompt_tokens') AS FLOAT64) AS INT64),
  CAST(CAST(JSON_VALUE(s.usage, '$.cached_tokens') AS FLOAT64) AS INT64),
  CAST(CAST(JSON_VALUE(s.usage, '$.completion_tokens') AS FLOAT64) AS INT64),
  CAST(CAST(JSON_VALUE(s.usage, '$.total_tokens') AS FLOAT64) AS INT64),
  JSON_VALUE(s.usage, '$.counted_by'),
  CAST(CAST(JSON_VALUE(s.usage, '$.attempts') AS FLOAT64) AS INT64),
  CAST(CAST(JSON_VALUE(s.usage, '$.wait_ms') AS FLOAT64) AS INT64),
  CAST(CAST(JSON_VALUE(s.usage, '$.first_byte_ms') AS FLOAT64) AS INT64),
  CAST(CAST(JSON_VALUE(s.usage, '$.duration_ms') AS FLOAT64) AS INT64),
  CAST(CAST(JSON_VALUE(s.usage, '$.request_bytes') AS FLOAT64) AS INT64),
  CAST(CAST(JSON_VALUE(s.usage, '$.response_bytes') AS FLOAT64) AS INT64),
  JSON_VALUE(s.usage, '$.client'),
  JSON_VALUE(s.usage, '$.service'),
  JSON_VALUE(s.usage, '$.revision'),
  JSON_VALUE(s.usage, '$.instance_id'),
  JSON_VALUE(s.usage, '$.region'),
  ARRAY(
    SELECT AS STRUCT JSON_VALUE(label, '$.key') AS key, JSON_VALUE(label, '$.value') AS value
    FROM UNNEST(JSON_QUERY_ARRAY(s.usage, '$.labels')) AS label WITH OFFSET AS place
    ORDER BY place
  ),
  CAST(JSON_VALUE(s.usage, '$.woke') AS BOOL)
FROM settled AS s
-- A call may take an hour, so its row began before its line.
WHERE s.request_id IS NOT NULL
  AND s.started_at >= TIMESTAMP_SUB(@since, INTERVAL 1 DAY)
  AND NOT EXISTS (
    SELECT 1
    FROM `${usage_table}` AS u
    WHERE u.request_id = s.request_id AND u.started_at >= TIMESTAMP_SUB(@since, INTERVAL 1 DAY)
  );
