"""Made data for the tests of sql/: rows of usage, of the billing export, of a log sink; and the files
with their placeholders filled."""

import datetime
import functools
import json
from decimal import Decimal
from pathlib import Path

import engine
import sqlglot
from sqlglot import exp

ROOT = Path(__file__).parents[2]
COLUMNS = json.loads((ROOT / "schema/usage.json").read_text())
PLACES = {
    "dataset": "p-1.tollgate",
    "usage_table": "p-1.tollgate.usage",
    "billing_table": "p-1.billing.gcp_billing_export_v1_01",
    "log_table": "p-1.logs.run_googleapis_com_stdout",
    "project": "p-1",
}
SERVICE_LABELS = {"application": "vllm-inference", "environment": "production"}

LABELS = {
    "name": "labels",
    "type": "RECORD",
    "mode": "REPEATED",
    "fields": [{"name": "key", "type": "STRING"}, {"name": "value", "type": "STRING"}],
}


def record(name, fields, mode="NULLABLE"):
    pairs = (field.split(":") for field in fields.split())
    return {"name": name, "type": "RECORD", "mode": mode, "fields": [{"name": n, "type": t} for n, t in pairs]}


# Columns that the standard and the detailed export have in common, as far as the views look at them.
BILLING_COLUMNS = [
    {"name": "billing_account_id", "type": "STRING"},
    record("service", "id:STRING description:STRING"),
    record("sku", "id:STRING description:STRING"),
    {"name": "usage_start_time", "type": "TIMESTAMP"},
    {"name": "usage_end_time", "type": "TIMESTAMP"},
    record("project", "id:STRING number:STRING name:STRING"),
    LABELS,
    {"name": "export_time", "type": "TIMESTAMP"},
    {"name": "cost", "type": "FLOAT64"},
    {"name": "currency", "type": "STRING"},
    record("usage", "amount:FLOAT64 unit:STRING amount_in_pricing_units:FLOAT64 pricing_unit:STRING"),
    record("credits", "name:STRING amount:FLOAT64 full_name:STRING id:STRING type:STRING", "REPEATED"),
    record("invoice", "month:STRING publisher_type:STRING"),
    {"name": "cost_type", "type": "STRING"},
]


def text(name):
    """A file of sql/ with its placeholders filled."""
    sql = (ROOT / "sql" / name).read_text()
    for place, value in PLACES.items():
        sql = sql.replace("${" + place + "}", value)
    return sql


@functools.cache
def views():
    """All views of sql/, by name."""
    found = {}
    for name in ("settings.sql", "views.sql", "cost.sql"):
        for statement in sqlglot.parse(text(name), read="bigquery"):
            if isinstance(statement, exp.Create):
                found[statement.this.sql(dialect="bigquery").replace("`", "")] = statement.expression.sql(dialect="bigquery")
    return found


def labels_of(labels):
    return [{"key": key, "value": value} for key, value in labels.items()]


def instant(value):
    """A time of the form `2026-11-02 08:00:00`, UTC."""
    return datetime.datetime.fromisoformat(value).replace(tzinfo=datetime.timezone.utc)


def call(request_id, started_at, seconds=10, **more):
    """A row of usage. Tokens are (prompt, cached, completion); labels are the key's own."""
    prompt, cached, completion = more.pop("tokens", (100, 0, 25))
    own = more.pop("labels", {})
    service = more.pop("service_labels", SERVICE_LABELS)
    start = instant(started_at) if isinstance(started_at, str) else started_at
    row = {
        "request_id": request_id,
        "started_at": start.isoformat(),
        "finished_at": (start + datetime.timedelta(seconds=seconds)).isoformat(),
        "principal": "service",
        "key_name": "ci",
        "key_id": "0123456789ab",
        "model": "m",
        "served_model": "m",
        "upstream": "gpu-1",
        "endpoint": "/v1/chat/completions",
        "stream": True,
        "status": 200,
        "outcome": "complete",
        "prompt_tokens": prompt,
        "cached_tokens": cached,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "counted_by": "engine",
        "attempts": 1,
        "wait_ms": 0,
        "duration_ms": int(seconds * 1000),
        "request_bytes": 10,
        "response_bytes": 20,
        "service": "gateway",
        "revision": "gateway-1",
        "instance_id": "i",
        "region": "us-central1",
        # As the gateway writes them: those of the service, then the key's own; no key twice.
        "labels": labels_of({**service, **{k: v for k, v in own.items() if k not in service}}),
    }
    return {**row, **more}


SKUS = {
    "gpu": ("NVIDIA L4 GPU with no zonal redundancy in us-central1", "seconds"),
    "cpu": ("Services CPU (Instance-based billing) in us-central1", "seconds"),
    "memory": ("Services Memory (Instance-based billing) in us-central1", "byte-seconds"),
    "network": ("Cloud Run Network Internet Data Transfer Out", "bytes"),
}


def charge(resource, start, cost, **more):
    """A line of the billing export."""
    sku, unit = SKUS.get(resource, (resource, "seconds"))
    labels = more.pop("labels", SERVICE_LABELS)
    amount = more.pop("amount", 0)
    month = more.pop("month", None) or start[:7].replace("-", "")
    line = {
        "billing_account_id": "01",
        "service": {"id": "152E", "description": "Cloud Run"},
        "sku": {"id": "S", "description": sku},
        "usage_start_time": instant(start).isoformat(),
        "usage_end_time": (instant(start) + datetime.timedelta(hours=1)).isoformat(),
        "project": {"id": "p-1"},
        "labels": labels_of(labels),
        "cost": cost,
        "currency": "USD",
        "usage": {"amount": amount, "unit": unit},
        "credits": [{"name": "c", "amount": amount} for amount in more.pop("credits", [])],
        "invoice": {"month": month},
        "cost_type": "regular",
    }
    return {**line, **more}


def tables(calls=(), charges=(), columns=COLUMNS):
    return {
        PLACES["usage_table"]: {"schema": columns, "rows": list(calls)},
        PLACES["billing_table"]: {"schema": BILLING_COLUMNS, "rows": list(charges)},
    }


def value(cell, field):
    if cell is None:
        return None
    kinds = {"INTEGER": int, "NUMERIC": Decimal, "FLOAT": float}
    return kinds.get(field["type"], str)(cell)


def ask(query, data, parameters=None, all_views=None):
    """The rows of a query as objects. Any view may be named as `tollgate.NAME`."""
    reply = engine.answer(
        {"query": query, "tables": data, "views": views() if all_views is None else all_views, "parameters": parameters}
    )
    fields = reply["schema"]["fields"]
    return [{f["name"]: value(c, f) for c, f in zip(row, fields)} for row in reply["rows"]]
