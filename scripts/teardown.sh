#!/usr/bin/env bash
# Removes what setup-project.sh and deploy.sh made. The services and with them all costs by the hour go
# first. Keys, usage rows and model weights stay unless --data is given; APIs stay enabled.
#
#   PROJECT=my-project scripts/teardown.sh [--data] [--yes]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

data=false
yes=false
for argument in "$@"; do
    case $argument in
        --data) data=true ;;
        --yes) yes=true ;;
        *)
            sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
            exit 64
            ;;
    esac
done
# shellcheck source=scripts/settings.sh
source scripts/settings.sh

if ! $yes; then
    $data && echo "This also deletes all keys, all usage rows and the model weights, for good."
    read -r -p "Type the project's id to remove Tollgate from it ($PROJECT): " answer
    [[ $answer == "$PROJECT" ]] || { echo "teardown.sh: not removed" >&2; exit 1; }
fi

failed=0
# if_there WHAT DESCRIBE... -- DELETE...: deletes what can be described.
if_there() {
    local what=$1 describe=()
    shift
    while [[ $1 != -- ]]; do
        describe+=("$1")
        shift
    done
    shift
    if ! "${describe[@]}" >/dev/null 2>&1; then
        echo "  $what: not there"
    elif ! run "$@"; then
        failed=$((failed + 1))
    fi
}

remove_bucket() {
    if_there "bucket $1" gcloud storage buckets describe "gs://$1" -- gcloud storage rm --recursive "gs://$1"
}

for service in tollgate tollgate-colocated tollgate-vllm; do
    if_there "service $service" gcloud run services describe "$service" --region "$REGION" -- \
        gcloud run services delete "$service" --region "$REGION"
done
if_there "repository tollgate" gcloud artifacts repositories describe tollgate --location "$REGION" -- \
    gcloud artifacts repositories delete tollgate --location "$REGION"
if_there "sink $LOG_SINK" gcloud logging sinks describe "$LOG_SINK" -- gcloud logging sinks delete "$LOG_SINK"
if_there "secret $SMOKE_SECRET" gcloud secrets describe "$SMOKE_SECRET" -- gcloud secrets delete "$SMOKE_SECRET"
remove_bucket "$BUILD_BUCKET"
for role in roles/logging.logWriter roles/run.admin; do
    gcloud projects remove-iam-policy-binding "$PROJECT" --condition None --format none \
        --member "serviceAccount:$BUILD_ACCOUNT" --role "$role" >/dev/null 2>&1 ||
        echo "  $role for $BUILD_ACCOUNT: not there"
done
for account in "$GATEWAY_ACCOUNT" "$VLLM_ACCOUNT" "$BUILD_ACCOUNT"; do
    if_there "account $account" gcloud iam service-accounts describe "$account" -- \
        gcloud iam service-accounts delete "$account"
done
if $data; then
    if_there "secret $KEYS_SECRET" gcloud secrets describe "$KEYS_SECRET" -- gcloud secrets delete "$KEYS_SECRET"
    if_there "dataset $DATASET" bq show "$PROJECT:$DATASET" -- bq rm -r -f --dataset "$PROJECT:$DATASET"
    remove_bucket "$MODEL_BUCKET"
else
    echo "kept: secret $KEYS_SECRET, dataset $DATASET, bucket $MODEL_BUCKET (--data removes them)"
fi
if [[ $failed -gt 0 ]]; then
    echo "teardown.sh: $failed could not be removed; see above, then run this again" >&2
    exit 1
fi
