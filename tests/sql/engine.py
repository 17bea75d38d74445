"""Runs BigQuery SQL on given tables: the query half of a stand-in for BigQuery.

BigQuery's SQL is translated by sqlglot and run by DuckDB, in memory. One JSON object per line of
standard input is one query, one JSON object per line of standard output is its answer:

    {"query": "SELECT ...", "parameters": {"since": {"type": "TIMESTAMP", "value": "..."},
                                           "ids": {"type": "ARRAY", "array_type": "STRING", "values": [...]}},
     "tables": {"dataset.table": {"schema": [...], "rows": [...]}}, "views": {"dataset.v": "SELECT ..."}}

A project before the dataset is ignored. The answer is one of

    {"schema": {"fields": [...]}, "rows": [[cell, ...], ...]}    of a SELECT; cells as in REST
    {"tables": {"dataset.table": [row, ...]}, "dml": {"inserted": 1, "updated": 0, "deleted": 0}}
    {"views": {"dataset.v": "SELECT ..."}}                        of CREATE VIEW
    {"error": "..."}

A script of several statements answers what its last one answers, with all views that it made.

What differs from BigQuery: intermediate integers do not overflow, a division by zero is not an
error, and a name that only DuckDB would find (an alias of the same SELECT) is found.
"""

import base64
import datetime
import decimal
import fnmatch
import json
import re
import sys

import duckdb
import sqlglot
from sqlglot import exp

BIGQUERY_TYPES = {
    "STRING": "VARCHAR",
    "BYTES": "BLOB",
    "INT64": "BIGINT",
    "INTEGER": "BIGINT",
    "FLOAT64": "DOUBLE",
    "FLOAT": "DOUBLE",
    "NUMERIC": "DECIMAL(38,9)",
    "BIGNUMERIC": "DECIMAL(38,18)",
    "BOOL": "BOOLEAN",
    "BOOLEAN": "BOOLEAN",
    "TIMESTAMP": "TIMESTAMPTZ",
    "DATE": "DATE",
    "DATETIME": "TIMESTAMP",
    "TIME": "TIME",
    "JSON": "JSON",
}
# Type names as the REST API's schemas have them.
DUCKDB_TYPES = {
    "varchar": "STRING",
    "null": "STRING",
    "blob": "BYTES",
    "tinyint": "INTEGER",
    "smallint": "INTEGER",
    "integer": "INTEGER",
    "bigint": "INTEGER",
    "hugeint": "INTEGER",
    "utinyint": "INTEGER",
    "usmallint": "INTEGER",
    "uinteger": "INTEGER",
    "ubigint": "INTEGER",
    "float": "FLOAT",
    "double": "FLOAT",
    "decimal": "NUMERIC",
    "boolean": "BOOLEAN",
    "timestamp with time zone": "TIMESTAMP",
    "timestamp": "DATETIME",
    "date": "DATE",
    "time": "TIME",
}
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


class Refusal(Exception):
    """What BigQuery would refuse too."""


def column_type(field):
    """DuckDB's type of a BigQuery field."""
    kind = field["type"].upper()
    if kind in ("RECORD", "STRUCT"):
        inner = ", ".join(f"{quoted(f['name'])} {column_type(f)}" for f in field["fields"])
        kind = f"STRUCT({inner})"
    elif kind in BIGQUERY_TYPES:
        kind = BIGQUERY_TYPES[kind]
    else:
        raise Refusal(f"unknown type {field['type']} of field {field['name']}")
    return kind + "[]" if field.get("mode") == "REPEATED" else kind


def json_structure(field):
    """The same type as `from_json` wants it."""
    kind = field["type"].upper()
    if kind in ("RECORD", "STRUCT"):
        kind = {f["name"]: json_structure(f) for f in field["fields"]}
    elif kind == "BYTES":
        kind = "VARCHAR"
    else:
        kind = BIGQUERY_TYPES[kind]
    return [kind] if field.get("mode") == "REPEATED" else kind


def stored(value, field):
    """A cell of an inserted row, as `from_json` reads it."""
    mode = field.get("mode", "NULLABLE")
    if mode == "REPEATED":
        return [stored(v, {**field, "mode": "REQUIRED"}) for v in value or []]
    if value is None:
        if mode == "REQUIRED":
            raise Refusal(f"Missing required field: {field['name']}")
        return None
    kind = field["type"].upper()
    if kind in ("RECORD", "STRUCT"):
        known = {name.lower(): v for name, v in value.items()}
        return {f["name"]: stored(known.get(f["name"].lower()), f) for f in field["fields"]}
    if kind == "TIMESTAMP":
        if isinstance(value, (int, float)) or re.fullmatch(r"-?\d+(\.\d+)?([eE]\d+)?", value):
            micros = int((decimal.Decimal(str(value)) * 1_000_000).to_integral_value())
            return (EPOCH + datetime.timedelta(microseconds=micros)).isoformat()
        return re.sub(r" ?UTC$", "+00", value)
    if kind in ("BOOL", "BOOLEAN"):
        return value if isinstance(value, bool) else str(value).lower() == "true"
    return value


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def without_project(name):
    parts = name.replace("`", "").split(".")
    if len(parts) < 2:
        raise Refusal(f'Table "{name}" must be qualified with a dataset')
    return ".".join(parts[-2:])


def sql_name(name):
    """`dataset.table` as DuckDB's schema and table."""
    return ".".join(quoted(part) for part in name.split(".", 1))


def make_table(connection, name, table):
    fields = table["schema"]
    if isinstance(fields, dict):
        fields = fields["fields"]
    columns = ", ".join(
        f"{quoted(f['name'])} {column_type(f)}{' NOT NULL' if f.get('mode') == 'REQUIRED' else ''}" for f in fields
    )
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(name.split('.')[0])}")
    connection.execute(f"CREATE TABLE {sql_name(name)} ({columns})")
    record = {"name": name, "type": "RECORD", "mode": "REQUIRED", "fields": fields}
    rows = json.dumps([stored(row, record) for row in table.get("rows", [])])
    structure = json.dumps([json_structure(record)])
    cells = ", ".join(
        f"from_base64(r.{quoted(f['name'])})" if f["type"].upper() == "BYTES" else f"r.{quoted(f['name'])}"
        for f in fields
    )
    connection.execute(
        f"INSERT INTO {sql_name(name)} SELECT {cells} FROM (SELECT unnest(from_json(?, ?)) AS r)",
        [rows, structure],
    )


def literal(parameter):
    """A query parameter as a typed constant."""
    kind = parameter.get("type", "STRING")
    if kind == "ARRAY":
        # One cast of the whole: long arrays are looked at element by element.
        values = [exp.Literal.string(str(value)) for value in parameter["values"]]
        whole = exp.DataType.build(f"ARRAY<{parameter['array_type']}>", dialect="bigquery")
        return exp.cast(exp.Array(expressions=values), whole)
    value = parameter.get("value")
    constant = exp.Null() if value is None else exp.Literal.string(re.sub(r" ?UTC$", "+00", str(value)))
    return exp.cast(constant, exp.DataType.build(kind, dialect="bigquery"))


def corrected(node):
    """What the translation would otherwise get wrong."""
    if isinstance(node, exp.TimestampDiff):
        # Whole units that passed, not limits that were crossed.
        unit = exp.Literal.string(node.text("unit"))
        return exp.Anonymous(this="DATE_SUB", expressions=[unit, node.expression, node.this])
    if isinstance(node, exp.DataType) and node.this == exp.DataType.Type.DECIMAL and not node.expressions:
        return exp.DataType.build("DECIMAL(38, 9)", dialect="duckdb")
    if isinstance(node, exp.IntDiv):
        # As an operator it would lose its parentheses.
        return exp.Anonymous(this="DIVIDE", expressions=[node.this, node.expression])
    if isinstance(node, exp.Timestamp) and node.args.get("zone"):
        # A time of the day there, as an instant.
        return exp.AtTimeZone(this=exp.cast(node.this, "DATETIME", dialect="bigquery"), zone=node.args["zone"])
    if isinstance(node, exp.Datetime) and node.expression:
        return exp.AtTimeZone(this=node.this, zone=node.expression)
    if isinstance(node, exp.TimeToStr) and node.args.get("zone"):
        local = exp.AtTimeZone(this=node.this, zone=node.args["zone"])
        return exp.Anonymous(this="STRFTIME", expressions=[local, node.args["format"]])
    return node


class Session:
    """A database of one request."""

    def __init__(self, request):
        self.connection = duckdb.connect(":memory:", config={"threads": 1})
        self.connection.execute("SET TimeZone = 'UTC'")
        self.parameters = {k.lower(): v for k, v in (request.get("parameters") or {}).items()}
        self.default_dataset = request.get("default_dataset")
        self.known = set()
        # Views are made when a statement names them.
        self.waiting = {without_project(name): text for name, text in (request.get("views") or {}).items()}
        for name, table in (request.get("tables") or {}).items():
            name = without_project(name)
            make_table(self.connection, name, table)
            self.known.add(name)

    def make_view(self, name, text):
        sql = self.translate(sqlglot.parse_one(text, read="bigquery"))
        self.connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(name.split('.')[0])}")
        self.connection.execute(f"CREATE OR REPLACE VIEW {sql_name(name)} AS {sql}")
        self.known.add(name)

    def translate(self, statement):
        """A statement of BigQuery as DuckDB's text."""
        ctes = {cte.alias.lower() for cte in statement.find_all(exp.CTE)}

        def change(node):
            if isinstance(node, exp.Parameter):
                if node.name.lower() not in self.parameters:
                    raise Refusal(f"Query parameter '{node.name}' not found")
                return literal(self.parameters[node.name.lower()])
            if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
                of_cte = not node.db and node.name.lower() in ctes
                return node if of_cte else self.found(node)
            return corrected(node)

        return statement.transform(change).sql(dialect="duckdb")

    def found(self, node):
        """The table or view that is meant."""
        if not node.db and self.default_dataset is None:
            raise Refusal(f'Table "{node.name}" must be qualified with a dataset')
        dataset = node.db or self.default_dataset
        name = f"{dataset}.{node.name}"
        if name in self.waiting:
            self.make_view(name, self.waiting.pop(name))
        if node.name.endswith("*"):
            return self.wildcard(node, name)
        if name not in self.known:
            raise Refusal(f"Not found: Table {name}")
        node.set("catalog", None)
        node.set("db", exp.to_identifier(dataset, quoted=True))
        node.set("this", exp.to_identifier(node.name, quoted=True))
        return node

    def wildcard(self, node, name):
        matching = [k for k in sorted(self.known) if fnmatch.fnmatchcase(k, name)]
        if not matching:
            raise Refusal(f"{name} does not match any table.")
        union = " UNION ALL BY NAME ".join(f"SELECT * FROM {sql_name(k)}" for k in matching)
        return sqlglot.parse_one(f"({union})", read="duckdb").unnest().subquery(node.alias or None)


def field_of(name, kind):
    """The REST schema of a result's column."""
    if kind.id in ("list", "array"):
        return {**field_of(name, kind.children[0][1]), "mode": "REPEATED"}
    if kind.id == "struct":
        inner = [field_of(child, child_kind) for child, child_kind in kind.children]
        return {"name": name, "type": "RECORD", "mode": "NULLABLE", "fields": inner}
    if str(kind) == "JSON":
        return {"name": name, "type": "JSON", "mode": "NULLABLE"}
    if kind.id not in DUCKDB_TYPES:
        raise Refusal(f"column {name} has a type that BigQuery lacks: {kind}")
    return {"name": name, "type": DUCKDB_TYPES[kind.id], "mode": "NULLABLE"}


def cell(value, field):
    """A value as the REST API spells it."""
    if field["mode"] == "REPEATED":
        inner = {**field, "mode": "NULLABLE"}
        return [{"v": cell(v, inner)} for v in value or []]
    if value is None:
        return None
    kind = field["type"]
    if kind == "RECORD":
        return {"f": [{"v": cell(value[f["name"]], f)} for f in field["fields"]]}
    if kind == "INTEGER":
        if not INT64_MIN <= value <= INT64_MAX:
            raise Refusal("integer overflow")
        return str(value)
    if kind == "BOOLEAN":
        return "true" if value else "false"
    if kind == "TIMESTAMP":
        return str((value - EPOCH) // datetime.timedelta(microseconds=1))
    if kind == "NUMERIC":
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    if kind == "DATETIME":
        return value.isoformat()
    if kind == "BYTES":
        return base64.b64encode(value).decode()
    return str(value)


def plain(value):
    """A value as a row for an insert has it."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


def selected(connection, sql):
    result = connection.sql(sql)
    fields = [field_of(name, kind) for name, kind in zip(result.columns, result.types)]
    rows = [[cell(v, f) for v, f in zip(row, fields)] for row in result.fetchall()]
    return {"schema": {"fields": fields}, "rows": rows}


def changed(connection, statement, sql):
    """Runs DML; answers the table afterwards and how many rows it touched."""
    counts = {"inserted": 0, "updated": 0, "deleted": 0}
    if isinstance(statement, exp.Merge):
        for (action,) in connection.execute(sql + " RETURNING merge_action").fetchall():
            counts[{"INSERT": "inserted", "UPDATE": "updated", "DELETE": "deleted"}[action]] += 1
    else:
        count = connection.execute(sql).fetchone()[0]
        kinds = {exp.Insert: "inserted", exp.Update: "updated", exp.Delete: "deleted"}
        counts[kinds[type(statement)]] = count
    target = statement.find(exp.Table)
    return f"{target.db}.{target.name}", counts


def rows_of(connection, name):
    result = connection.execute(f"SELECT * FROM {sql_name(name)}")
    names = [column[0] for column in result.description]
    return [dict(zip(names, map(plain, row))) for row in result.fetchall()]


def answer(request):
    session = Session(request)
    try:
        return run(session, request["query"])
    finally:
        session.connection.close()


def run(session, query):
    result, views, tables = {}, {}, {}
    for statement in filter(None, sqlglot.parse(query, read="bigquery")):
        if isinstance(statement, exp.Create) and statement.kind == "VIEW":
            name, text = created(session, statement)
            views[name] = text
            result = {"views": views}
        elif isinstance(statement, (exp.Insert, exp.Merge, exp.Update, exp.Delete)):
            name, counts = changed(session.connection, statement, session.translate(statement))
            tables[name] = rows_of(session.connection, name)
            result = {"tables": tables, "dml": counts}
        elif isinstance(statement, exp.Query):
            result = selected(session.connection, session.translate(statement))
        else:
            raise Refusal(f"not supported here: {statement.sql(dialect='bigquery')[:80]}")
    return {**result, "views": views} if views else result


def created(session, statement):
    target = statement.find(exp.Table)
    name, text = f"{target.db}.{target.name}", statement.expression.sql(dialect="bigquery")
    if not statement.args.get("replace") and (name in session.known or name in session.waiting):
        raise Refusal(f"Already Exists: Table {name}")
    session.waiting.pop(name, None)
    session.make_view(name, text)
    return name, text


def main():
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            reply = answer(json.loads(line))
        except (Refusal, sqlglot.errors.SqlglotError, duckdb.Error, ValueError, KeyError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
