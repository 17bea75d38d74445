#!/usr/bin/env bash
# Makes the views of sql/ in a BigQuery dataset. Safe to run twice: a view is replaced.
#
#   scripts/install-views.sh PROJECT DATASET [BILLING_TABLE]
#
# PROJECT runs the services, DATASET holds the table that the gateway writes. BILLING_TABLE is the
# billing export (project.dataset.gcp_billing_export_v1_... or ..._resource_v1_...); without it only
# the views of usage are made. USAGE_TABLE names another table than `usage`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    printf 'scripts/install-views.sh: %s\n' "$*" >&2
    exit "${status:-1}"
}

# checked NAME PATTERN VALUE: these words become part of SQL.
checked() {
    [[ $3 =~ ^$2$ ]] || status=64 fail "$1 is not well-formed: $3"
}

# filled FILE: the file with its placeholders filled.
filled() {
    local sql
    sql=$(<"$1")
    sql=${sql//"\${dataset}"/$project.$dataset}
    sql=${sql//"\${usage_table}"/$project.$dataset.$usage_table}
    sql=${sql//"\${billing_table}"/$billing_table}
    sql=${sql//"\${project}"/$project}
    printf '%s\n' "$sql"
}

# install FILE: runs its statements.
install() {
    echo "making the views of $1 in $project.$dataset"
    filled "$1" | bq --project_id="$project" --headless query --use_legacy_sql=false --format=none ||
        fail "$1 was not installed; the gateway makes the table $usage_table, or the columns that it lacks, when it starts, and the billing export its own within a day"
}

if [[ $# -lt 2 || $# -gt 3 ]]; then
    status=64 fail "usage: scripts/install-views.sh PROJECT DATASET [BILLING_TABLE]"
fi
project=$1
dataset=$2
billing_table=${3:-}
usage_table=${USAGE_TABLE:-usage}
checked PROJECT '[a-z][a-z0-9.:-]+' "$project"
checked DATASET '[A-Za-z0-9_]+' "$dataset"
checked USAGE_TABLE '[A-Za-z0-9_-]+' "$usage_table"
if [[ -n $billing_table ]]; then
    checked BILLING_TABLE '[a-z][a-z0-9.:-]+\.[A-Za-z0-9_]+\.[A-Za-z0-9_-]+' "$billing_table"
fi
command -v bq >/dev/null || fail "bq is missing; it comes with the Google Cloud SDK"

install sql/settings.sql
install sql/views.sql
if [[ -n $billing_table ]]; then
    install sql/cost.sql
else
    echo "without a billing table the views of sql/cost.sql are left out"
fi
