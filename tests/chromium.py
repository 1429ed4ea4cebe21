"""A headless Chromium for tests, spoken to over a pipe in the DevTools protocol: no driver, no port, no package."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from select import select

import pytest

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
PATIENCE = 60.0
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Home": 36, "End": 35, "Tab": 9}


def find_chromium() -> str:
    """The installed browser; skips the test where there is none, or fails it with DVPO_REQUIRE_BROWSER=1."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    missing = f"there is no browser here ({', '.join(NAMES)}); Debian and Ubuntu: apt-get install chromium"
    if os.environ.get("DVPO_REQUIRE_BROWSER") == "1":
        pytest.fail(f"DVPO_REQUIRE_BROWSER is 1, but {missing}")
    pytest.skip(missing)


class Chromium:
    """A browser process with a profile of its own under `folder`."""

    def __init__(self, executable: str, folder: Path):
        read_here, write_there = _high_pipe()
        read_there, write_here = _high_pipe()

        def connect():  # the browser reads commands on 3 and answers on 4
            os.dup2(read_there, 3)
            os.dup2(write_there, 4)

        arguments = [
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--remote-debugging-pipe", f"--user-data-dir={folder}", "--force-color-profile=srgb"),
        ]
        self.process = subprocess.Popen(
            [executable, *arguments],
            preexec_fn=connect,
            pass_fds=(3, 4),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(folder / "stderr.txt").open("wb"),
        )
        os.close(read_there)
        os.close(write_there)
        self.read, self.write, self.count, self.buffer = read_here, write_here, 0, b""
        self.tabs: dict[str, Tab] = {}

    def open(self, path: Path, *, width=1280, height=900, dark=False, before=lambda tab: None) -> "Tab":
        """A new tab with this file loaded, or with what `before` makes of it."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        tab = self.tabs[session] = Tab(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        tab.call("Emulation.setDeviceMetricsOverride", size)
        tab.set_dark(dark)
        before(tab)
        tab.call("Page.navigate", {"url": Path(path).as_uri()})
        tab.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
        return tab

    def call(self, method: str, params: dict | None = None, session: str | None = None) -> dict:
        self.count += 1
        number = self.count
        message = {"id": number, "method": method, "params": params or {}}
        if session:
            message["sessionId"] = session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def receive(self) -> dict:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self.buffer:
            ready, _, _ = select([self.read], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self.read, 1 << 20) if ready else b""
            assert chunk, f"the browser {'says nothing' if not ready else 'is gone'} ({self.process.poll()=})"
            self.buffer += chunk
        message, self.buffer = self.buffer.split(b"\0", 1)
        message = json.loads(message)
        if (tab := self.tabs.get(message.get("sessionId"))) and "method" in message:
            tab.note(message["method"], message["params"])
        return message

    def close(self):
        for end in (self.read, self.write):
            os.close(end)
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Tab:
    """A page; `problems` are console messages, exceptions and refused resources, `requests` what it loaded."""

    def __init__(self, browser: Chromium, session: str, target: str):
        self.browser, self.session, self.target = browser, session, target
        self.problems: list[str] = []
        self.requests: list[str] = []

    def note(self, method: str, params: dict) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(f"{details['text']} {details.get('exception', {}).get('description', '')}")
        elif method == "Log.entryAdded":
            self.problems.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.problems.append(f"console.{params['type']}: {[one.get('value') for one in params['args']]}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def call(self, method: str, params: dict | None = None) -> dict:
        return self.browser.call(method, params, self.session)

    def evaluate(self, expression: str):
        """The value of a JavaScript expression; promises are awaited."""
        answer = self.call("Runtime.evaluate", {"expression": expression, "returnByValue": True, "awaitPromise": True})
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self.evaluate(condition):
            assert time.monotonic() < deadline, f"never true: {condition}"
            time.sleep(0.01)

    def settle(self) -> None:
        """Until what was asked for is painted; tabs behind others are not."""
        self.call("Page.bringToFront")
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def set_dark(self, dark: bool) -> None:
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", {"features": features})

    def centre(self, selector: str) -> tuple[float, float]:
        script = (
            f"(() => {{ const it = document.querySelector({json.dumps(selector)});"
            "it.scrollIntoView({block: 'center'});"
            "const box = it.getClientRects()[0]; return [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        return tuple(self.evaluate(script))

    def hover(self, selector: str) -> None:
        x, y = self.centre(selector)
        self.call("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})
        self.settle()

    def click(self, selector: str) -> None:
        x, y = self.centre(selector)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            press = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **press})
        self.settle()

    def press(self, key: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            event = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
            self.call("Input.dispatchKeyEvent", event)
        self.settle()

    def screenshot(self, path: Path, *, whole=False) -> Path:
        self.settle()
        taken = self.call("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        Path(path).write_bytes(base64.b64decode(taken["data"]))
        return path

    def close(self) -> None:
        self.browser.call("Target.closeTarget", {"targetId": self.target})


def _high_pipe() -> tuple[int, int]:
    """A pipe clear of 3 and 4, which the child's ends are moved to."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high
