-- What it cost: the bill of Cloud Run, shared out over those who used it. docs/cost.md explains it.
-- Installed by scripts/install-views.sh, which fills the placeholders:
--   ${dataset}        project.dataset of the views, those of settings.sql and views.sql among them
--   ${billing_table}  project.dataset.table of the billing export, standard or detailed

-- The exact shares: one line per invoice month, day, pool, resource and payer, and one for the idle
-- time. The lines of a day add up to the bill of that day to the last digit, in billionths.
-- A pool is what is shared by the same callers: all services without the upstream label, or those
-- of one upstream.
CREATE OR REPLACE VIEW `${dataset}.cost_lines` AS
WITH bill AS (
  SELECT
    b.invoice.month AS invoice_month,
    b.currency,
    DATE(b.usage_start_time, s.bill_timezone) AS day,
    COALESCE((SELECT l.value FROM UNNEST(b.labels) AS l WHERE l.key = s.upstream_label LIMIT 1), '') AS pool,
    CASE
      WHEN REGEXP_CONTAINS(b.sku.description, r'(?i)\bgpu\b') THEN 'gpu'
      WHEN REGEXP_CONTAINS(b.sku.description, r'(?i)\bcpu\b') THEN 'cpu'
      WHEN REGEXP_CONTAINS(b.sku.description, r'(?i)\bmemory\b') THEN 'memory'
      ELSE 'other'
    END AS resource,
    -- Credits are negative.
    COALESCE(CAST(b.cost AS NUMERIC), 0)
      + COALESCE((SELECT SUM(CAST(c.amount AS NUMERIC)) FROM UNNEST(b.credits) AS c), 0) AS cost,
    -- What is billed by request has no idle time.
    IF(
      b.usage.unit = 'seconds' AND NOT REGEXP_CONTAINS(b.sku.description, r'(?i)request-based'),
      COALESCE(CAST(b.usage.amount AS NUMERIC), 0), 0
    ) AS seconds
  FROM `${billing_table}` AS b
  CROSS JOIN `${dataset}.usage_settings` AS s
  WHERE b.service.description = 'Cloud Run'
    AND b.project.id = s.project_id
    AND EXISTS (SELECT 1 FROM UNNEST(b.labels) AS l WHERE l.key = s.bill_label AND l.value = s.bill_value)
),
cells AS (
  SELECT invoice_month, currency, day, pool, resource, CAST(SUM(cost) * 1000000000 AS INT64) AS nanos
  FROM bill
  GROUP BY invoice_month, currency, day, pool, resource
),
-- Seconds that instances were billed for: GPU seconds, as an instance has one GPU; without a GPU CPU
-- seconds, as if it had one CPU.
pools AS (
  SELECT
    day,
    pool,
    CAST(GREATEST(
      IF(
        SUM(IF(resource = 'gpu', seconds, 0)) > 0,
        SUM(IF(resource = 'gpu', seconds, 0)),
        SUM(IF(resource = 'cpu', seconds, 0))
      ), 0
    ) * 1000000 AS INT64) AS billed_us
  FROM bill
  GROUP BY day, pool
),
calls AS (
  SELECT
    u.started_at,
    u.finished_at,
    u.principal,
    u.key_name,
    u.username,
    (SELECT l.value FROM UNNEST(u.labels) AS l WHERE l.key = s.team_label LIMIT 1) AS team,
    DATE(u.started_at, s.bill_timezone) AS first_day,
    DATE(u.finished_at, s.bill_timezone) AS last_day,
    TRIM(SUBSTR(REGEXP_REPLACE(LOWER(u.upstream), r'[^a-z0-9_]+', '-'), 1, 63), '-') AS upstream,
    s.prompt_weight * GREATEST(u.prompt_tokens - u.cached_tokens, 0)
      + s.cached_weight * u.cached_tokens
      + s.completion_weight * u.completion_tokens AS weight,
    s.bill_timezone,
    s.calls_per_instance
  FROM `${dataset}.usage_unique` AS u
  CROSS JOIN `${dataset}.usage_settings` AS s
  -- Another deployment may write into the same table.
  WHERE NOT EXISTS (SELECT 1 FROM UNNEST(u.labels) AS l WHERE l.key = s.bill_label AND l.value != s.bill_value)
),
payers AS (
  SELECT p.day, p.pool, c.team, c.principal, c.key_name, c.username, SUM(c.weight) AS weight
  FROM pools AS p
  JOIN calls AS c ON c.first_day = p.day AND (p.pool = '' OR p.pool = c.upstream)
  GROUP BY p.day, p.pool, c.team, c.principal, c.key_name, c.username
  HAVING SUM(c.weight) > 0
),
-- How many calls were in flight, from one change to the next.
changes AS (
  SELECT p.day, p.pool, c.calls_per_instance, change.moment, SUM(change.calls) AS calls
  FROM calls AS c
  CROSS JOIN UNNEST(GENERATE_DATE_ARRAY(c.first_day, c.last_day)) AS touched
  JOIN pools AS p ON p.day = touched AND (p.pool = '' OR p.pool = c.upstream)
  CROSS JOIN UNNEST([
    STRUCT(GREATEST(c.started_at, TIMESTAMP(touched, c.bill_timezone)) AS moment, 1 AS calls),
    STRUCT(LEAST(c.finished_at, TIMESTAMP(DATE_ADD(touched, INTERVAL 1 DAY), c.bill_timezone)) AS moment, -1 AS calls)
  ]) AS change
  GROUP BY p.day, p.pool, c.calls_per_instance, change.moment
),
stretches AS (
  SELECT
    day,
    pool,
    calls_per_instance,
    TIMESTAMP_DIFF(LEAD(moment) OVER (PARTITION BY day, pool ORDER BY moment), moment, MICROSECOND) AS us,
    SUM(calls) OVER (PARTITION BY day, pool ORDER BY moment) AS in_flight
  FROM changes
),
-- Seconds in which instances had something to do: as few instances as could take the calls.
busy AS (
  SELECT day, pool, SUM(us * DIV(in_flight + calls_per_instance - 1, calls_per_instance)) AS busy_us
  FROM stretches
  GROUP BY day, pool
),
-- The part of each cell that is for payers: used_us of billed_us. The rest was idle.
loads AS (
  SELECT
    c.invoice_month, c.currency, c.day, c.pool, c.resource, c.nanos,
    w.weight,
    CASE
      WHEN w.weight IS NULL THEN 0
      WHEN c.resource = 'other' OR p.billed_us = 0 THEN 1
      ELSE LEAST(COALESCE(b.busy_us, 0), p.billed_us)
    END AS used_us,
    CASE
      WHEN w.weight IS NULL OR c.resource = 'other' OR p.billed_us = 0 THEN 1
      ELSE p.billed_us
    END AS billed_us
  FROM cells AS c
  JOIN pools AS p ON p.day = c.day AND p.pool = c.pool
  LEFT JOIN busy AS b ON b.day = c.day AND b.pool = c.pool
  LEFT JOIN (SELECT day, pool, SUM(weight) AS weight FROM payers GROUP BY day, pool) AS w
    ON w.day = c.day AND w.pool = c.pool
),
shares AS (
  SELECT
    l.invoice_month, l.currency, l.day, l.pool, l.resource, l.nanos,
    'usage' AS line, p.team, p.principal, p.key_name, p.username,
    l.nanos * (l.used_us / l.billed_us) * (p.weight / l.weight) AS share
  FROM loads AS l
  JOIN payers AS p ON p.day = l.day AND p.pool = l.pool
  UNION ALL
  SELECT
    invoice_month, currency, day, pool, resource, nanos,
    'idle' AS line, CAST(NULL AS STRING) AS team, CAST(NULL AS STRING) AS principal,
    CAST(NULL AS STRING) AS key_name, CAST(NULL AS STRING) AS username,
    nanos * ((billed_us - used_us) / billed_us) AS share
  FROM loads
),
-- Largest remainder: all are rounded down, what is left goes to those that lost most, one each. Of sums
-- with more than fifteen digits (yen, rupiah) shares are known less well than to a billionth; the first
-- in line takes what they are wrong by.
floors AS (
  SELECT
    *,
    COUNT(*) OVER (PARTITION BY invoice_month, currency, day, pool, resource) AS places,
    nanos - SUM(CAST(FLOOR(share) AS INT64)) OVER (PARTITION BY invoice_month, currency, day, pool, resource) AS left_over,
    ROW_NUMBER() OVER (
      PARTITION BY invoice_month, currency, day, pool, resource
      ORDER BY share - FLOOR(share) DESC, share DESC, line, team, principal, key_name, username
    ) AS place
  FROM shares
)
SELECT
  invoice_month, currency, day, pool, resource, line, team, principal, key_name, username,
  CAST(FLOOR(share) AS INT64) + CASE
    WHEN left_over BETWEEN 0 AND places THEN IF(place <= left_over, 1, 0)
    WHEN place = 1 THEN left_over
    ELSE 0
  END AS nanos
FROM floors
WHERE line = 'usage' OR share != 0 OR place <= ABS(left_over);

-- Per invoice month, day and payer. `cost` is exact: add it up as you like. `amount` is `cost` in
-- whole cents, up or down by less than one, so that the amounts of a month are that month's bill.
CREATE OR REPLACE VIEW `${dataset}.cost_daily` AS
WITH lines AS (
  SELECT
    invoice_month, currency, day, line, team, principal, key_name, username,
    SUM(IF(resource = 'gpu', nanos, 0)) AS gpu_nanos,
    SUM(IF(resource = 'cpu', nanos, 0)) AS cpu_nanos,
    SUM(IF(resource = 'memory', nanos, 0)) AS memory_nanos,
    SUM(nanos) AS nanos
  FROM `${dataset}.cost_lines`
  GROUP BY invoice_month, currency, day, line, team, principal, key_name, username
),
days AS (
  SELECT
    invoice_month, currency, day, SUM(nanos) AS nanos,
    CAST(FLOOR(SUM(nanos) / 10000000) AS INT64) AS cents,
    CAST(ROUND(CAST(SUM(SUM(nanos)) OVER (PARTITION BY invoice_month, currency) AS NUMERIC) * NUMERIC '0.0000001') AS INT64)
      AS month_cents
  FROM lines
  GROUP BY invoice_month, currency, day
),
day_cents AS (
  SELECT
    invoice_month, currency, day,
    cents + IF(
      ROW_NUMBER() OVER (PARTITION BY invoice_month, currency ORDER BY nanos - cents * 10000000 DESC, day)
        <= month_cents - SUM(cents) OVER (PARTITION BY invoice_month, currency),
      1, 0
    ) AS cents
  FROM days
),
floors AS (
  SELECT *, CAST(FLOOR(nanos / 10000000) AS INT64) AS cents
  FROM lines
),
places AS (
  SELECT
    f.*,
    d.cents - SUM(f.cents) OVER (PARTITION BY f.invoice_month, f.currency, f.day) AS left_over,
    ROW_NUMBER() OVER (
      PARTITION BY f.invoice_month, f.currency, f.day
      ORDER BY f.nanos - f.cents * 10000000 DESC, f.nanos DESC, f.line, f.team, f.principal, f.key_name, f.username
    ) AS place
  FROM floors AS f
  JOIN day_cents AS d ON d.invoice_month = f.invoice_month AND d.currency = f.currency AND d.day = f.day
)
SELECT
  invoice_month, day, line, team, principal, key_name, username, currency,
  CAST(gpu_nanos AS NUMERIC) * NUMERIC '0.000000001' AS gpu_cost,
  CAST(cpu_nanos AS NUMERIC) * NUMERIC '0.000000001' AS cpu_cost,
  CAST(memory_nanos AS NUMERIC) * NUMERIC '0.000000001' AS memory_cost,
  CAST(nanos - gpu_nanos - cpu_nanos - memory_nanos AS NUMERIC) * NUMERIC '0.000000001' AS other_cost,
  CAST(nanos AS NUMERIC) * NUMERIC '0.000000001' AS cost,
  CAST(cents + IF(place <= left_over, 1, 0) AS NUMERIC) * NUMERIC '0.01' AS amount
FROM places;

-- Per invoice month and payer, for finance: the amounts of a month add up to the bill to the cent.
CREATE OR REPLACE VIEW `${dataset}.cost_monthly` AS
WITH lines AS (
  SELECT
    invoice_month, currency, line, team, principal, key_name, username,
    SUM(nanos) AS nanos,
    CAST(FLOOR(SUM(nanos) / 10000000) AS INT64) AS cents
  FROM `${dataset}.cost_lines`
  GROUP BY invoice_month, currency, line, team, principal, key_name, username
),
places AS (
  SELECT
    *,
    CAST(ROUND(CAST(SUM(nanos) OVER (PARTITION BY invoice_month, currency) AS NUMERIC) * NUMERIC '0.0000001') AS INT64)
      - SUM(cents) OVER (PARTITION BY invoice_month, currency) AS left_over,
    ROW_NUMBER() OVER (
      PARTITION BY invoice_month, currency
      ORDER BY nanos - cents * 10000000 DESC, nanos DESC, line, team, principal, key_name, username
    ) AS place
  FROM lines
)
SELECT
  invoice_month, line, team, principal, key_name, username, currency,
  CAST(nanos AS NUMERIC) * NUMERIC '0.000000001' AS cost,
  CAST(cents + IF(place <= left_over, 1, 0) AS NUMERIC) * NUMERIC '0.01' AS amount
FROM places;

-- Per invoice month and team, made of the lines of cost_monthly.
CREATE OR REPLACE VIEW `${dataset}.cost_by_team` AS
SELECT
  invoice_month, line, team, currency,
  COUNT(DISTINCT IF(principal = 'service', key_name, NULL)) AS service_keys,
  COUNT(DISTINCT IF(principal = 'user', username, NULL)) AS users,
  SUM(cost) AS cost,
  SUM(amount) AS amount
FROM `${dataset}.cost_monthly`
GROUP BY invoice_month, line, team, currency;
