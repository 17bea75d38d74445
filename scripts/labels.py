"""Compares the cost labels of the service files: on service and template, and LABELS on the rows.

    python3 scripts/labels.py service.yaml ...

Billing reads the template's labels alone, people look at the service's, and the gateway writes LABELS
on every usage row: they must be one set, and the same in every file. Needs PyYAML.
"""

import sys

import yaml


def sets_of(path):
    """Every set of labels in a file, with where it stands."""
    with open(path, encoding="utf-8") as file:
        service = yaml.safe_load(file)
    template = service["spec"]["template"]
    yield f"{path}: metadata.labels", service["metadata"].get("labels", {})
    yield f"{path}: spec.template.metadata.labels", template["metadata"].get("labels", {})
    for container in template["spec"]["containers"]:
        env = {variable["name"]: variable.get("value", "") for variable in container.get("env", [])}
        if "LABELS" in env or container["name"] == "tollgate":
            pairs = (pair.partition("=") for pair in env.get("LABELS", "").split(",") if pair)
            yield f"{path}: LABELS of {container['name']}", {key: value for key, _, value in pairs}


def main(paths):
    found = [entry for path in paths for entry in sets_of(path)]
    where, wanted = found[0]
    different = [entry for entry in found if entry[1] != wanted]
    for place, labels in different:
        print(f"{place} is {labels}, but {where} is {wanted}", file=sys.stderr)
    if not wanted:
        print(f"{where} is empty", file=sys.stderr)
    return 1 if different or not wanted else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
