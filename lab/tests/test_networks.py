"""Who reaches whom in the lab, how fast, and what answers where nothing stands."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from meshlab.layout import Site, replace

from tests.support.lab import Lab, Space, httpbin, sleeper, until

pytestmark = pytest.mark.lab

TIMES = "%{time_connect} %{time_total} %{http_code}"


@pytest.fixture
def weather(empty_lab: Lab) -> Iterator[Path]:
    """The file that says what the WAN is like; fair again afterwards."""
    path = empty_lab.home / "wan.json"
    yield path
    path.unlink(missing_ok=True)
    until(lambda: not path.exists(), "fair weather")


def client(space: Space) -> Space:
    """Make a pod that can call others, and wait for it."""
    space.pod("client", sleeper())
    space.ready("pod/client")
    return space


def balanced(space: Space) -> str:
    """Make httpbin behind a LoadBalancer, and return its address."""
    space.deployment("web", httpbin())
    space.service("web", type="LoadBalancer")
    space.ready("deployment/web")
    return until(lambda: address(space, "web"), "an address")


def address(space: Space, service: str) -> str:
    """Return the address of a LoadBalancer Service, or nothing."""
    ingress = space.get("service", service)["status"]["loadBalancer"].get("ingress") or [{}]
    return str(ingress[0].get("ip", ""))


def pod_ip(space: Space, app: str) -> str:
    """Return the address of an app's only pod."""
    (pod,) = space.items("pods", "-l", f"app={app}")
    return str(pod["status"]["podIP"])


def test_pods_of_one_cluster_do_not_reach_those_of_another(east: Space, west: Space) -> None:
    """A pod's address means nothing outside its cluster, in either direction, and a call ends at once."""
    for here, there in ((east, west), (west, east)):
        there.pod("web", httpbin())
        client(here)
        there.ready("pod/web")
        begun = time.monotonic()
        refused = here.ask("client", f"http://{pod_ip(there, 'web')}:8080/hostname")
        assert refused.returncode in (7, 52, 56), refused
        assert time.monotonic() - begun < 2
        there.kubectl("delete", "pod", "web", "--wait=false")
        here.kubectl("delete", "pod", "client")


def test_a_load_balancer_is_reached_through_the_wan_with_its_round_trip(
    east: Space, west: Space, weather: Path
) -> None:
    """A call on a new connection takes two round trips, and a change of the weather is felt at once."""
    url = f"http://{balanced(west)}/hostname"
    client(east)
    until(lambda: east.ask("client", url).returncode == 0, "an answer")
    for rtt_ms in (40, 120, 0):
        replace(weather, json.dumps({"rtt_ms": rtt_ms}))
        totals = sorted(total(east, url) for _ in range(5))
        assert 2 * rtt_ms <= totals[2] <= 2 * rtt_ms + 25, totals
    weather.unlink()
    assert total(east, url) >= 80, "the round trip that `up` was asked for holds again"
    (pod,) = west.items("pods", "-l", "app=web")
    assert json.loads(east.ask("client", url).stdout)["hostname"] == pod["metadata"]["name"]


def total(space: Space, url: str) -> float:
    """Return the milliseconds that a call on a new connection takes."""
    said = space.ask("client", url, "-o", "/dev/null", "-w", TIMES).stdout.split()
    assert said[2] == "200"
    return float(said[1]) * 1000


def test_a_second_call_on_a_connection_takes_one_round_trip(east: Space, west: Space, weather: Path) -> None:
    """The relay keeps connections: only the first call pays for the handshake."""
    replace(weather, json.dumps({"rtt_ms": 100}))
    url = f"http://{balanced(west)}/status/200"
    client(east)
    until(lambda: east.ask("client", url).returncode == 0, "an answer")
    twice = ("curl", "-s", "-o", "/dev/null", "-o", "/dev/null", "-w", "%{time_total} ", url, url)
    first, second = (float(t) * 1000 for t in east.kubectl("exec", "client", "--", *twice).split())
    assert 200 <= first <= 240
    assert 100 <= second <= 130


def test_a_cut_refuses_new_calls_and_ends_those_under_way(east: Space, west: Space, weather: Path) -> None:
    """What is cut answers nobody, the other direction goes on, and it heals when the cut is reverted."""
    url = f"http://{balanced(west)}"
    client(east)
    until(lambda: east.ask("client", f"{url}/status/200").returncode == 0, "an answer")
    replace(weather, json.dumps({"rtt_ms": 10, "cut": ["west"]}))
    assert east.ask("client", f"{url}/status/200").returncode != 0
    replace(weather, json.dumps({"rtt_ms": 10}))
    assert east.ask("client", f"{url}/status/200").returncode == 0
    script = f"(sleep 0.7; touch /var/cut) & curl -sS -m 8 {url}/delay/5; echo ended with $?"
    command, env = east.lab.command("kubectl", "--context", "lab-east", "-n", east.name, "exec", "client", "--")
    with subprocess.Popen([*command, "sh", "-c", script], env=env, text=True, stdout=subprocess.PIPE) as call:
        assert call.stdout is not None
        until(
            lambda: east.try_kubectl("exec", "client", "--", "ls", "/var/cut").returncode == 0, "the call is under way"
        )
        begun = time.monotonic()
        replace(weather, json.dumps({"cut": ["west"]}))
        said = call.stdout.read()
    assert "ended with 56" in said or "ended with 52" in said, said
    assert time.monotonic() - begun < 3


def test_a_half_written_weather_changes_nothing(east: Space, west: Space, weather: Path) -> None:
    """While wan.json is not JSON, what it said last holds."""
    url = f"http://{balanced(west)}/status/200"
    client(east)
    until(lambda: east.ask("client", url).returncode == 0, "an answer")
    replace(weather, json.dumps({"rtt_ms": 100}))
    assert total(east, url) >= 200
    weather.write_text('{"rtt_ms": ')
    assert total(east, url) >= 200


def test_a_service_spreads_over_its_pods(east: Space) -> None:
    """Each of three pods gets its share of new connections, by cluster address and by node port."""
    east.deployment("web", httpbin(), replicas=3)
    east.service("web", type="NodePort")
    client(east)
    east.ready("deployment/web")
    port = east.get("service", "web")["spec"]["ports"][0]["nodePort"]
    for url in ("http://web/hostname", f"http://{Site(1).node_ip}:{port}/hostname"):
        until(lambda url=url: east.ask("client", url).returncode == 0, "an answer")
        script = f"for i in $(seq 1 90); do curl -s {url} | tr -d '\\n '; echo; done"
        answers = Counter(
            json.loads(a)["hostname"] for a in east.kubectl("exec", "client", "--", "sh", "-c", script).split()
        )
        assert len(answers) == 3
        assert min(answers.values()) >= 12, answers


def test_a_service_without_endpoints_refuses_at_once(east: Space) -> None:
    """Nobody waits for a timeout where no pod stands behind a Service."""
    east.service("nobody")
    client(east)
    begun = time.monotonic()
    done = until(lambda: refused(east, "http://nobody/"), "a refusal")
    assert "Failed to connect" in done or "Could not connect" in done
    assert time.monotonic() - begun < 3


def refused(space: Space, url: str) -> str:
    """Return what curl says when it could not connect; nothing when that was for another reason."""
    done = space.ask("client", url)
    return done.stderr if done.returncode == 7 else ""


def test_a_headless_service_names_its_ready_pods(east: Space) -> None:
    """Its DNS name gives the addresses of the pods that are ready, and of no others."""
    labels = {"labels": {"app": "web"}}
    never = {"exec": {"command": ["false"]}, "periodSeconds": 1}
    east.deployment("web", httpbin(), replicas=2)
    east.service("web", clusterIP="None")
    east.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "unready", **labels}, "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "curlimages/curl", **sleeper(readinessProbe=never)}]}})  # fmt: skip
    client(east)
    east.ready("deployment/web")
    until(lambda: east.phase("unready") == "Running", "the unready pod runs")
    ready = {p["status"]["podIP"] for p in east.items("pods", "-l", "app=web") if p["metadata"]["name"] != "unready"}
    until(lambda: resolve(east, "web") == ready, f"the addresses {ready}", 10)


def resolve(space: Space, name: str) -> set[str]:
    """Return the addresses of a name as a pod resolves it."""
    said = space.try_kubectl("exec", "client", "--", "getent", "ahostsv4", name).stdout
    return {line.split()[0] for line in said.splitlines()}


def test_an_unknown_name_is_reported_at_once(east: Space) -> None:
    """Names that do not exist, inside the cluster's domain and outside, are NXDOMAIN, not a timeout."""
    client(east)
    for name in ("nobody", "nobody.nowhere.svc.cluster.local", "www.example.com"):
        begun = time.monotonic()
        assert east.ask("client", f"http://{name}/").returncode == 6
        assert time.monotonic() - begun < 1.5


def test_a_flat_network_joins_the_pods(short_folder: Path) -> None:
    """With --flat a pod reaches a pod of the other cluster by its address, with the round trip."""
    lab = Lab(short_folder / "flat")
    try:
        lab.start("empty", rtt_ms=60, flat=True)
        east, west = (Space(lab, f"lab-{name}", "default") for name in ("east", "west"))
        west.pod("web", httpbin())
        client(east)
        west.ready("pod/web")
        url = f"http://{pod_ip(west, 'web')}:8080/hostname"
        assert 120 <= total(east, url) <= 170
        assert json.loads(east.ask("client", url).stdout)["hostname"] == "web"
    finally:
        lab.stop()


def test_the_other_cluster_reaches_the_api_server_at_its_address_on_the_wan(east: Space) -> None:
    """What a remote secret names as server answers from a pod of the other cluster."""
    client(east)
    done = east.ask("client", f"{Site(2).api_url}/version", "-k", "-o", "/dev/null", "-w", TIMES)
    assert done.stdout.split()[2] == "401" or done.stdout.split()[2] == "200"


def test_nothing_leads_out_of_the_sandbox(east: Space) -> None:
    """No pod reaches an address outside the lab."""
    client(east)
    assert east.ask("client", "http://192.0.2.1/").returncode in (7, 52, 56)
