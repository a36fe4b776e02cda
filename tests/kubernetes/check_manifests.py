#!/usr/bin/env python3
"""Holds deploy/kubernetes/ to the published schemas: Kubernetes' own by the package kubernetes-validate
(PyPI), unknown keys refused, and the MPIJob's by mpijob_v2beta1.json beside this file. Its pod templates
are checked as the pods that the operator makes of them. Where the package is missing it says so and
ends with 77, by which ctest counts it as skipped."""
import json
import pathlib
import sys

try:
    import jsonschema
    import kubernetes_validate
    import yaml
except ImportError as missing:
    print(f"skipped: {missing}; pip install kubernetes-validate")
    sys.exit(77)

HERE = pathlib.Path(__file__).resolve().parent
MANIFESTS = HERE.parent.parent / "deploy" / "kubernetes"
VERSION = "1.29"


def problems(manifest):
    """What is wrong with one document, as sentences."""
    if manifest["kind"] != "MPIJob":
        try:
            kubernetes_validate.validate(manifest, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{'.'.join(map(str, error.path))}: {error.message}"
        return
    schema = json.loads((HERE / "mpijob_v2beta1.json").read_text())
    for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest):
        yield f"{'.'.join(map(str, error.path))}: {error.message}"
    for role, replica in manifest["spec"]["mpiReplicaSpecs"].items():
        # The operator puts the restart policy in, and refuses one in the template.
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": role.lower()},
               "spec": replica["template"]["spec"]}
        if "restartPolicy" in pod["spec"]:
            yield f"{role}: the restart policy stands beside the template, not in it"
        for problem in problems(pod):
            yield f"{role}: {problem}"


def templates_of(manifest):
    spec = manifest["spec"]
    if manifest["kind"] == "MPIJob":
        return [replica["template"] for replica in spec["mpiReplicaSpecs"].values()]
    return [spec["template"]] if "template" in spec else []


def probes(manifest):
    """Probes of a port without a name here, and such that do not speak what the port speaks."""
    for template in templates_of(manifest):
        for container in template["spec"]["containers"]:
            names = {port["name"] for port in container.get("ports", []) if "name" in port}
            tls = any(arg.startswith("--tls-cert") for arg in container.get("args", []))
            for name in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container.get(name, {})
                action = probe.get("httpGet") or probe.get("tcpSocket") or {}
                port = action.get("port")
                if isinstance(port, str) and port not in names:
                    yield f"{name} of the port {port}, which {container['name']} has not"
                if tls and "grpc" in probe:
                    yield f"{name} by gRPC, which speaks no TLS"
                if tls and "httpGet" in probe and action.get("scheme") != "HTTPS":
                    yield f"{name} in plain text, which {container['name']} does not speak"


def mounts(manifest):
    """Mounts without a volume and volumes without a mount, of which no schema knows."""
    spec = manifest["spec"]
    templates = templates_of(manifest)
    claims = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
    for template in templates:
        volumes = {volume["name"] for volume in template["spec"].get("volumes", [])} | claims
        used = {mount["name"] for container in template["spec"]["containers"]
                for mount in container.get("volumeMounts", [])}
        if used - volumes:
            yield f"no volume for the mounts {sorted(used - volumes)}"
        if volumes - used:
            yield f"no mount of the volumes {sorted(volumes - used)}"


def main():
    faults = 0
    for path in sorted(MANIFESTS.glob("*.yaml")):
        for manifest in yaml.safe_load_all(path.read_text()):
            found = [*problems(manifest), *mounts(manifest), *probes(manifest)]
            print(f"{path.name}: {manifest['kind']}: {'good' if not found else ''}")
            for problem in found:
                print(f"  {problem}")
            faults += len(found)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
