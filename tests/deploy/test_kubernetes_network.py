"""The network policies let through what Tandem needs, and nothing else: evaluated for every pair that could talk."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from tests.deploy.manifests import Object, composed, kinds, needs_kubectl, pods, selects

pytestmark = needs_kubectl

PORTS = (53, 443, 7000, 7001, 7002, 7080, 7090, 29500)


@dataclass(frozen=True)
class Actor:
    """A pod with its labels and those of its namespace, or an address outside of the cluster."""

    name: str
    namespace: str = "tandem"
    labels: tuple[tuple[str, str], ...] = ()
    namespace_labels: tuple[tuple[str, str], ...] = ()
    address: str | None = None


def actor(name: str, namespace: str = "tandem", labels: dict[str, str] | None = None, **marks: str) -> Actor:
    of_namespace = {"kubernetes.io/metadata.name": namespace} | marks
    return Actor(name, namespace, tuple((labels or {}).items()), tuple(of_namespace.items()))


OTHERS = (
    actor("gateway", "gateways", **{"tandem-callers": "true"}),
    actor("caller", labels={"tandem-caller": "true"}),
    actor("caller elsewhere", "other", {"tandem-caller": "true"}),
    actor("neighbour", labels={"app": "something"}),
    actor("stranger", "other", {"app.kubernetes.io/component": "orchestrator", "app.kubernetes.io/name": "tandem"}),
    actor("prometheus", "monitoring"),
    actor("dns", "kube-system", {"k8s-app": "kube-dns"}),
    actor("api server", "kube-system"),
    Actor("node's dns", address="169.254.20.10"),
    Actor("node's credentials", address="169.254.169.254"),
    Actor("network around", address="10.1.2.3"),
    Actor("internet", address="203.0.113.7"),
    Actor("internet 6", address="2001:db8::7"),
)


def ours(objects: Iterable[Object]) -> list[Actor]:
    return [actor(pod.service, labels=pod.labels) for pod in pods(objects)]


def allowed(policies: list[Object], source: Actor, sink: Actor, port: int) -> bool:
    """Over TCP. As Kubernetes defines it: a pod that some policy selects takes, or opens, what one of them names."""
    return _passes(policies, source, sink, port, "egress") and _passes(policies, sink, source, port, "ingress")


def _passes(policies: list[Object], pod: Actor, peer: Actor, port: int, way: str) -> bool:
    if pod.address is not None:
        return True
    chosen = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == pod.namespace
        and way.capitalize() in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], dict(pod.labels))
    ]
    rules = [rule for spec in chosen for rule in spec.get(way, [])]
    peers = "to" if way == "egress" else "from"
    return not chosen or any(
        _has_port(rule, port) and any(_is(each, peer, pod.namespace) for each in rule[peers]) for rule in rules
    )


def _has_port(rule: Object, port: int) -> bool:
    return "ports" not in rule or any(each["port"] == port and each["protocol"] == "TCP" for each in rule["ports"])


def _is(peer: Object, other: Actor, own_namespace: str) -> bool:
    assert set(peer) <= {"podSelector", "namespaceSelector", "ipBlock"} and peer
    if "ipBlock" in peer:
        if other.address is None:
            return False
        address = ipaddress.ip_address(other.address)
        block = peer["ipBlock"]
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(each) for each in block.get("except", [])
        )
    if other.address is not None:
        return False
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], dict(other.namespace_labels)):
            return False
    elif other.namespace != own_namespace:
        return False
    return "podSelector" not in peer or selects(peer["podSelector"], dict(other.labels))


def edges(*components: str) -> set[tuple[str, str, int]]:
    """All that is let through to or from a pod of Tandem."""
    objects = composed("network-policy", *components)
    policies, own = kinds(objects, "NetworkPolicy"), ours(objects)
    actors = (*own, *OTHERS)
    return {
        (source.name, sink.name, port)
        for source in actors
        for sink in actors
        for port in PORTS
        if (source in own or sink in own) and allowed(policies, source, sink, port)
    }


SERVED = {
    *((caller, "orchestrator", port) for caller in ("gateway", "caller") for port in (7000, 7080)),
    ("orchestrator", "draft", 7001),
    ("orchestrator", "target", 7002),
    *(("prometheus", service, 7090) for service in ("draft", "target", "orchestrator")),
    *(("orchestrator", dns, 53) for dns in ("dns", "node's dns")),
}


def fetching(pod: str) -> set[tuple[str, str, int]]:
    return {*((pod, dns, 53) for dns in ("dns", "node's dns")), (pod, "internet", 443), (pod, "internet 6", 443)}


def test_services_that_fetch_their_own_models_reach_the_internet_for_it() -> None:
    assert edges() == SERVED | fetching("draft") | fetching("target") | fetching("orchestrator")


def test_with_a_common_cache_only_its_job_leaves_the_cluster() -> None:
    assert edges("model-cache") == SERVED | fetching("models")


def test_the_hosts_of_a_target_talk_to_one_another_and_workers_to_nobody_else() -> None:
    hosts = ("target", "target-worker")
    among = {(one, other, port) for one in hosts for other in hosts for port in PORTS}
    resolving = {(host, dns, 53) for host in hosts for dns in ("dns", "node's dns")}
    assert edges("model-cache", "multi-host") == SERVED | fetching("models") | among | resolving


def test_without_the_policies_everything_is_let_through() -> None:
    """The evaluation above can tell the difference."""
    objects = composed()
    orchestrator = next(each for each in ours(objects) if each.name == "orchestrator")
    assert kinds(objects, "NetworkPolicy") == []
    assert all(allowed([], orchestrator, other, port) for other in OTHERS for port in PORTS)
