#!/usr/bin/env bash
# Makes what a deployment needs in a Google project: APIs, accounts with the least rights, the secret
# of the keys, the dataset of the usage rows, buckets, the image repository. Safe to run again: what is
# there stays as it is. Needs gcloud and bq, signed in as an owner (or editor plus rights on IAM).
#
#   PROJECT=my-project scripts/setup-project.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/settings.sh
source scripts/settings.sh

# unless_there WHAT DESCRIBE... -- CREATE...: creates what cannot be described. A description that fails
# for another reason than absence makes the creation fail too, with the reason.
unless_there() {
    local what=$1 describe=()
    shift
    while [[ $1 != -- ]]; do
        describe+=("$1")
        shift
    done
    shift
    if "${describe[@]}" >/dev/null 2>&1; then
        echo "  $what: there"
    else
        run "$@"
    fi
}

make_account() {
    unless_there "account $1" gcloud iam service-accounts describe "$1@$PROJECT.iam.gserviceaccount.com" -- \
        gcloud iam service-accounts create "$1" --display-name "$2"
}

# patiently COMMAND... : gives a right. A new account, a log sink's too, may not be known everywhere at
# once, so a refusal for that reason is tried again for a minute.
patiently() {
    local attempt
    printf '+ %s\n' "$*" >&2
    for attempt in 1 2 3 4 5 6; do
        if "$@" >"$said" 2>&1; then
            return 0
        fi
        if [[ $attempt -eq 6 ]] || ! grep -q "does not exist" "$said"; then
            break
        fi
        sleep 10
    done
    cat "$said" >&2
    return 1
}
said=$(mktemp)
trap 'rm -f "$said"' EXIT

# Adding a binding that is there changes nothing.
grant() {
    patiently "$@" --format none
}

# bq says on standard output why it fails.
grant_on_dataset() {
    patiently bq query --quiet --location "$BQ_LOCATION" --use_legacy_sql=false \
        "GRANT \`roles/bigquery.dataEditor\` ON SCHEMA \`$PROJECT\`.$DATASET TO '$1'"
}

make_bucket() {
    unless_there "bucket $1" gcloud storage buckets describe "gs://$1" -- \
        gcloud storage buckets create "gs://$1" --location "$REGION" \
        --uniform-bucket-level-access --public-access-prevention
}

echo "== APIs"
run gcloud services enable run.googleapis.com secretmanager.googleapis.com bigquery.googleapis.com \
    artifactregistry.googleapis.com cloudbuild.googleapis.com containeranalysis.googleapis.com \
    iam.googleapis.com cloudresourcemanager.googleapis.com logging.googleapis.com storage.googleapis.com

echo "== accounts"
make_account tollgate-gateway "Tollgate: the gateway"
make_account tollgate-vllm "Tollgate: the model server"
make_account tollgate-build "Tollgate: builds"

echo "== keys: a secret with an empty set; tollgate keys add fills it"
unless_there "secret $KEYS_SECRET" gcloud secrets describe "$KEYS_SECRET" -- \
    gcloud secrets create "$KEYS_SECRET" --replication-policy automatic
if [[ -z $(gcloud secrets versions list "$KEYS_SECRET" --limit 1 --format 'value(name)') ]]; then
    printf '{}' | run gcloud secrets versions add "$KEYS_SECRET" --data-file -
fi
grant gcloud secrets add-iam-policy-binding "$KEYS_SECRET" \
    --member "serviceAccount:$GATEWAY_ACCOUNT" --role roles/secretmanager.secretAccessor

echo "== usage rows: a dataset; the gateway makes the table"
unless_there "dataset $DATASET" bq show "$PROJECT:$DATASET" -- \
    bq --location "$BQ_LOCATION" mk --dataset --description "Usage rows of Tollgate" "$PROJECT:$DATASET"
grant_on_dataset "serviceAccount:$GATEWAY_ACCOUNT"

echo "== the same rows from the log: the copy that sql/reconcile.sql reads after a crash"
unless_there "sink $LOG_SINK" gcloud logging sinks describe "$LOG_SINK" -- \
    gcloud logging sinks create "$LOG_SINK" "bigquery.googleapis.com/projects/$PROJECT/datasets/$DATASET" \
    --use-partitioned-tables \
    --log-filter 'resource.type="cloud_run_revision" AND jsonPayload.message="usage"'
grant_on_dataset "$(gcloud logging sinks describe "$LOG_SINK" --format 'value(writerIdentity)')"

echo "== model weights: a bucket that both shapes read"
make_bucket "$MODEL_BUCKET"
for account in "$VLLM_ACCOUNT" "$GATEWAY_ACCOUNT"; do
    grant gcloud storage buckets add-iam-policy-binding "gs://$MODEL_BUCKET" \
        --member "serviceAccount:$account" --role roles/storage.objectViewer
done

echo "== images"
unless_there "repository tollgate" gcloud artifacts repositories describe tollgate --location "$REGION" -- \
    gcloud artifacts repositories create tollgate --location "$REGION" --repository-format docker

echo "== builds: may write logs and images, read their source, and deploy as the gateway's account"
make_bucket "$BUILD_BUCKET"
build=serviceAccount:$BUILD_ACCOUNT
grant gcloud storage buckets add-iam-policy-binding "gs://$BUILD_BUCKET" \
    --member "$build" --role roles/storage.objectViewer
grant gcloud artifacts repositories add-iam-policy-binding tollgate --location "$REGION" \
    --member "$build" --role roles/artifactregistry.writer
grant gcloud iam service-accounts add-iam-policy-binding "$GATEWAY_ACCOUNT" \
    --member "$build" --role roles/iam.serviceAccountUser
unless_there "secret $SMOKE_SECRET" gcloud secrets describe "$SMOKE_SECRET" -- \
    gcloud secrets create "$SMOKE_SECRET" --replication-policy automatic
grant gcloud secrets add-iam-policy-binding "$SMOKE_SECRET" \
    --member "$build" --role roles/secretmanager.secretAccessor
grant gcloud projects add-iam-policy-binding "$PROJECT" --condition None \
    --member "$build" --role roles/logging.logWriter
# Not run.developer: opening a service to callers without a Google identity takes the right to set IAM.
grant gcloud projects add-iam-policy-binding "$PROJECT" --condition None \
    --member "$build" --role roles/run.admin

cat <<TEXT

Project $PROJECT is ready. Next:
  model weights into gs://$MODEL_BUCKET/$MODEL        docs/deploy.md, step 2
  tollgate keys add me --admin --project $PROJECT --secret $KEYS_SECRET
  scripts/deploy.sh vllm && scripts/deploy.sh build
TEXT
