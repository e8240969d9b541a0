"""The InferenceService that has KServe run a repository on Triton."""

from __future__ import annotations

import json
import re

#: What stands for the repository's place in the cluster until somebody names it: no storage that
#: KServe knows, so nothing is served by accident.
PLACEHOLDER = "replace-me://folder-of-the-repository"
SERVICE_NAME = "inference-service.yaml"
#: Longest name of a service, from which the cluster makes longer ones.
_MOST_NAME = 50


def service_yaml(model: str, *, cpus: int, gpu: bool, storage_uri: str | None = None) -> str:
    """The text of an InferenceService.

    Args:
        model: name of the model, from which that of the service is made.
        cpus: requested of the cluster, and its limit.
        gpu: request one GPU, too.
        storage_uri: the repository's place; None: `PLACEHOLDER`.
    """
    amounts = [f'cpu: "{cpus}"', *(['nvidia.com/gpu: "1"'] if gpu else [])]
    resources = "".join(
        f"        {kind}:\n" + "".join(f"          {amount}\n" for amount in amounts)
        for kind in ("requests", "limits")
    )
    return f"""\
# The storage holds the repository itself: the folder with the models' folders.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {service_name(model)}
spec:
  predictor:
    model:
      modelFormat:
        name: triton
      protocolVersion: v2
      storageUri: {json.dumps(storage_uri or PLACEHOLDER)}
      resources:
{resources}"""


def service_name(model: str) -> str:
    """A name that Kubernetes takes: lower case, digits and dashes, beginning with a letter."""
    name = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    name = name if name[:1].isalpha() else f"model-{name}".strip("-")
    return name[:_MOST_NAME].rstrip("-")
