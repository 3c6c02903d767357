"""What the network policies let pods reach outside of the namespace, and what not."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from tests.deploy.manifests import Document, all_pods, built, selects

PARTS = ("head", "gpu", "cpu", "ingress", "submitter", "starter", "redis")
ON_NODES = ("head", "gpu", "cpu", "ingress")
NODE_LOCAL_DNS, METADATA, OLDER_METADATA = "169.254.20.10", "169.254.169.254", "169.254.169.252"
VENDOR, SOMEBODYS = "203.0.113.7", "10.1.2.3"


def reaches(cloud: str, part: str, address: str, port: int, protocol: str = "TCP") -> bool:
    """Whether a pod's packets go there: what one policy of egress allows is allowed."""
    documents = built(f"overlays/{cloud}")
    pod = next(
        labels
        for one in all_pods(documents)
        if (labels := one["metadata"]["labels"])["moa-router/part"] == part
    )
    policies = [
        document["spec"]
        for document in documents
        if document["kind"] == "NetworkPolicy"
        and "Egress" in document["spec"]["policyTypes"]
        and selects(document["spec"]["podSelector"], pod)
    ]
    assert policies, f"{part} is under no policy"
    return any(
        lets(rule, address, port, protocol)
        for policy in policies
        for rule in policy.get("egress", [])
    )


def lets(rule: Document, address: str, port: int, protocol: str) -> bool:
    """Whether a rule of egress names this address, which is no pod's, and this port."""
    ports = rule.get("ports")
    if ports is not None and {"protocol": protocol, "port": port} not in ports:
        return False
    blocks = [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer]
    return any(
        ip_address(address) in ip_network(block["cidr"])
        and not any(ip_address(address) in ip_network(no) for no in block.get("except", []))
        for block in blocks
    )


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
@pytest.mark.parametrize("part", PARTS)
def test_every_pod_may_ask_for_names_where_its_node_answers(cloud: str, part: str) -> None:
    for protocol in ("UDP", "TCP"):
        assert reaches(cloud, part, NODE_LOCAL_DNS, 53, protocol)
        assert reaches(cloud, part, METADATA, 53, protocol) is (cloud == "gcp")


@pytest.mark.parametrize("part", PARTS)
def test_who_a_machine_is_can_be_asked_only_where_pods_are_answered_for_themselves(
    part: str,
) -> None:
    """EC2's answer would be the node's role; GKE's is the service account's."""
    assert not reaches("aws", part, METADATA, 80)
    for address, port in ((METADATA, 80), (OLDER_METADATA, 988)):
        assert reaches("gcp", part, address, port) is (part in ON_NODES)


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
@pytest.mark.parametrize("part", PARTS)
def test_vendors_are_reached_by_https_from_nodes_and_no_neighbour_is(cloud: str, part: str) -> None:
    api_server = part in ("head", "starter")  # whose address nobody knows before

    assert reaches(cloud, part, VENDOR, 443) is (part in ON_NODES or api_server)
    assert reaches(cloud, part, SOMEBODYS, 443) is api_server
    assert not reaches(cloud, part, VENDOR, 80)
    assert not reaches(cloud, part, SOMEBODYS, 22)
