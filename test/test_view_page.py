"""``flow_policy view BAG``: the page over HTTP, and in a real browser."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from browser_support import Browser, chromium
from view_support import FAULT_AT, JOINTS, LABEL, START, events, get, write_view_bag

from flow_policy_ros.cli.main import main
from flow_policy_ros.viewing.feed import Feed
from flow_policy_ros.viewing.pictures import LiveShelf
from flow_policy_ros.viewing.server import CONNECTIONS, PAGES, PageServer, _Handler
from flow_policy_ros.viewing.snapshot import Scene, Snapshot

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "samples" / "adroit_door" / "seed_5000"


class Shown:
    """``flow_policy view`` as a process; ``url`` once its page can be looked at, ``end`` as Ctrl-C does."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "flow_policy_ros", "view", "--port", "0", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ}
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.match(r"(http://127\.0\.0\.1:\d+/)  \(Ctrl-C ends\)", line)
        assert found, line + (self.process.stderr.read() if self.process.stderr else "")
        self.url = found[1]

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """A page of the made-up recording."""
    one = Shown(write_view_bag(tmp_path_factory.mktemp("page") / "run.mcap"))
    yield one
    assert one.end() == 0


def told(url: str, last: str = "") -> dict[str, list[Any]]:
    """Everything that the page is told, by event."""
    found: dict[str, list[Any]] = {}
    for _, event, content in events(url, last):
        found.setdefault(event, []).append(content)
    return found


def test_the_sample_is_shown_whole(tmp_path: Path) -> None:
    file = tmp_path / "view.json"
    one = Shown(SAMPLE, "--robot", "adroit_door", "--json", file)
    try:
        heard = told(one.url)
        scene, shots = heard["scene"][0], heard["snapshot"]
        assert scene["title"] == "adroit_door" and not scene["live"] and len(scene["joints"]) == 28
        assert scene["groups"]["wrist"] == ["WRJ1", "WRJ0"] and scene["limits"]["ARTz"] == [-0.75, 1.25]
        assert 30 <= len(shots) <= 32 and shots[-1]["t"] - shots[0]["t"] == pytest.approx(1.99, abs=0.07)
        assert sum(len(shot.get("measured", [])) for shot in shots) > 100
        assert all(len(row) == 29 for shot in shots for row in shot.get("executed", []))
        assert any(len(shot["chunk"]["rows"]) > 1 for shot in shots if "chunk" in shot)
        code, head, data = get(f"{one.url}picture/{scene['run']}/{shots[-1]['picture']['number']}.jpg")
        assert code == 200 and head["Content-Type"] == "image/jpeg" and data.startswith(b"\xff\xd8")
    finally:
        assert one.end() == 0
    figures = json.loads(file.read_text())
    assert figures["url"] == one.url and figures["snapshots"] >= 30 and figures["problems"] == []


def test_events_go_on_where_a_page_left_off(shown: Shown) -> None:
    ids = [name for name, event, _ in events(shown.url) if event in ("scene", "snapshot")]
    assert len(set(ids)) == len(ids) > 40
    rest = [name for name, event, _ in events(shown.url, ids[-5]) if event == "snapshot"]
    assert rest == ids[-4:]
    other = [name for name, _, _ in events(shown.url, "another-7")]
    huge = ids[0].partition("-")[0] + "-" + "9" * 6000
    assert [name for name, _, _ in events(shown.url, huge)][: len(ids)] == ids
    assert other[: len(ids)] == ids  # of another run: from the beginning


def test_the_page_loads_nothing_from_elsewhere_and_gives_nothing_away(shown: Shown) -> None:
    code, head, body = get(shown.url)
    page = body.decode()
    assert code == 200 and "default-src 'none'" in head["Content-Security-Policy"]
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert "Access-Control-Allow-Origin" not in head
    for path in ("etc/passwd", "../../etc/passwd", "picture/x/1.jpg", "picture/%2e%2e/1.jpg", "templates/view.js"):
        assert get(shown.url + path)[0] == 404
    run = told(shown.url)["scene"][0]["run"]
    for name in ("999999.jpg", "-1.jpg", "٣.jpg", "1e3.jpg", "1" * 50 + ".jpg"):
        assert get(f"{shown.url}picture/{run}/{quote(name)}")[0] == 404


def test_only_this_machines_pages_are_answered(shown: Shown) -> None:
    """A web page may point its own name at 127.0.0.1; the browser then sends that name."""
    assert get(shown.url, Host="127.0.0.1:1")[0] == 200
    assert get(shown.url, Host="localhost")[0] == 200
    for host in ("evil.example", "evil.example:8765", "127.0.0.1.evil.example", "192.168.0.7:8765", ""):
        assert get(shown.url, Host=host)[0] == 403
        assert get(f"{shown.url}events", Host=host)[0] == 403
    port = int(shown.url.rsplit(":", 1)[1].strip("/"))
    with socket.socket() as other, pytest.raises(OSError):
        other.settimeout(5)
        other.connect((socket.gethostbyname(socket.gethostname()), port))
        if other.getpeername()[0].startswith("127."):
            raise OSError("this machine has no other address")


def test_the_page_only_reads(shown: Shown) -> None:
    import urllib.error
    import urllib.request

    for method in ("POST", "PUT", "DELETE"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(shown.url, data=b"x", method=method), timeout=60)
        assert refused.value.code == 501


def test_a_page_that_reads_nothing_holds_nobody_up_and_too_many_are_turned_away() -> None:
    feed = Feed(entries=50)
    scene = Scene("robot", True, ("a",))
    with PageServer(feed, LiveShelf(), 0) as server:
        port = int(server.url.rsplit(":", 1)[1].strip("/"))
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(PAGES)]
        for one in slow:
            one.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        while feed.viewers < PAGES:
            feed.after(10**9, 0.01)
        assert get(f"{server.url}events")[0] == 503
        for k in range(300):  # 30 MB that nobody takes
            feed.show(scene, Snapshot(k * 10**6, instruction="x" * 100_000))
        assert feed.shown == 301 and len(feed.after(1, 0.0)[0]) <= 51
        for one in slow:
            one.close()
    assert feed.viewers <= PAGES


def test_connections_are_bounded_and_idle_ones_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Handler, "timeout", 3.0)
    before = threading.active_count()
    with PageServer(Feed(), LiveShelf(), 0) as server:
        port = int(server.url.rsplit(":", 1)[1].strip("/"))
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS + 20)]
        try:
            for one in idle:
                one.settimeout(30.0)
            assert idle[-1].recv(1) == b"", "one too many is closed"
            assert threading.active_count() <= before + 1 + CONNECTIONS
            assert not select.select([idle[0]], [], [], 0.0)[0], "and at once, not for being idle"
            assert idle[0].recv(1) == b"", "one on which nothing is asked is closed"
        finally:
            for one in idle:
                one.close()
        for _ in range(CONNECTIONS + 20):  # each leaves its place to the next
            assert answered(server.url), "there is no room again"


def answered(url: str) -> bool:
    """Whether the page comes, sooner or later; a server without room closes the connection."""
    for _ in range(200):
        try:
            return get(url)[0] == 200
        except (OSError, HTTPException):
            time.sleep(0.1)
    return False


def test_what_cannot_be_shown_is_refused_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cases = {
            ("nowhere",): "recording nowhere does not exist",
            (str(SAMPLE), "--port", str(port)): f"port {port} cannot be used: another program has it. Give another with --port",
            (str(SAMPLE), "--port", "99999"): "--port is 99999, expected 0 to 65535",
            (str(SAMPLE), "--rate-hz", "100"): "--rate-hz is 100, expected 0.5 to 15",
            (str(SAMPLE), "--robot", "nobody"): "'nobody' does not exist",
            (str(SAMPLE), "--use-sim-time"): "a recording has its own time",
            ("--start", "3"): "choose a piece of a recording, and none is given",
            (str(SAMPLE), "--start", "99"): "lies behind the end",
            (str(SAMPLE), "--json", str(tmp_path / "no" / "file")): "does not exist; create it first",
        }
        for arguments, words in cases.items():
            assert main(["view", *arguments]) == 2, arguments
            assert words in capsys.readouterr().err
    if find_spec("rerun") is None:
        assert main(["view", str(SAMPLE), "--rerun"]) == 2
        assert "pip install rerun-sdk" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if chromium() is None:
        pytest.skip("no Chromium here (apt-get install chromium)")
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


def wait_for(browser: Browser, condition: str) -> Any:
    """The value of an expression once it is true."""
    wait = f"new Promise(r => {{ const look = () => {{ const v = {condition}; v ? r(v) : setTimeout(look, 30); }}; look(); }})"
    return browser.evaluate(wait)


INK = """(id => { const c = document.getElementById(id), e = document.createElement("canvas"), seen = new Set();
    e.width = c.width; e.height = c.height;
    const pen = e.getContext("2d", {willReadFrequently: true}); pen.drawImage(c, 0, 0);
    const d = pen.getImageData(0, 0, c.width, c.height).data;
    for (let i = 0; i < d.length; i += 4) if (d[i + 3] > 200) seen.add(`${d[i]},${d[i + 1]},${d[i + 2]}`);
    return [...seen]; })"""
MEASURED, EXECUTED, CHUNK, FAULT = "21,101,192", "207,63,18", "142,36,170", "198,40,40"


def test_the_page_shows_the_recording_in_a_browser(browser: Browser, shown: Shown) -> None:
    browser.visit(shown.url)
    wait_for(browser, "ended && store.shots.length > 40 && player.t === store.end()")
    browser.evaluate("document.getElementById('window').value = '2'; seek(1.0)")
    wait_for(browser, "element('guard-state').textContent === 'active' && !element('picture').hidden")
    assert browser.evaluate("document.getElementById('alarm').hidden")
    assert {MEASURED, EXECUTED, CHUNK} <= set(browser.evaluate(f"{INK}('large')"))
    assert FAULT not in browser.evaluate(f"{INK}('timeline')")
    names = browser.evaluate("cells.map(c => c.button.querySelector('b').textContent)")
    assert names == list(JOINTS)  # as text: the page has no element of that name
    assert browser.evaluate("document.querySelectorAll('#grid b b, #events i').length") == 0
    boxes = browser.evaluate("Array.from(document.querySelectorAll('#boxes rect'), r => Number(r.getAttribute('x')))")
    assert boxes == [pytest.approx((0.5 - 0.1) * 64, abs=0.1)]
    assert browser.evaluate("document.querySelector('#boxes text').textContent") == LABEL
    browser.evaluate(f"seek({(FAULT_AT - START) / 1e9 + 0.3})")
    wait_for(browser, "document.getElementById('guard-state').textContent === 'fault'")
    assert "tracking_error: elbow lies 0.3 rad" in browser.evaluate("document.getElementById('alarm').textContent")
    assert FAULT in browser.evaluate(f"{INK}('timeline')")
    rows = browser.evaluate("Array.from(document.querySelectorAll('#events tr'), r => r.textContent)")
    assert any(row.startswith("2.00 sfaulttracking_error") for row in rows), rows  # 2 s after the recording begins
    browser.evaluate("cells[1].button.click()")
    wait_for(browser, "document.getElementById('large-text').textContent.includes('limited in 7 ticks')")
    assert browser.errors == [] and all(request.startswith((shown.url, "data:")) for request in browser.requests)


def test_a_recording_plays_stops_and_fits_a_narrow_window(browser: Browser, shown: Shown) -> None:
    browser.visit(shown.url)
    wait_for(browser, "ended && store.shots.length > 40")
    browser.evaluate("seek(0.2); document.getElementById('play').click()")
    wait_for(browser, "player.t > 0.5 && player.playing")
    browser.evaluate("document.getElementById('play').click()")
    at = browser.evaluate("player.t")
    browser.settle()
    assert browser.evaluate("player.t") == at
    for width in (390, 800, 1280, 1920):
        browser.resize(width)
        browser.settle()
        assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), width
    assert browser.errors == []
