"""A headless Chromium by its own protocol over two pipes: what a page says and asks for, and keys and clicks."""

import json
import os
import shutil
import subprocess
import threading

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
KEYS = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40, "End": 35, "Home": 36}


def program():
    """The browser of this machine, or None."""
    return next((path for name in NAMES if os.name == "posix" and (path := shutil.which(name))), None)


class Browser:
    """A page in a browser.

    Attributes:
        said: errors, warnings and dialogs of the page.
        asked: addresses that the page has asked for.
    """

    def __init__(self, folder):
        there, here = os.pipe(), os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}"]
        ends = there[0], here[1]  # which it has to find as 3 and 4
        moved = ["bash", "-c", f'exec 13<&{ends[0]} 14>&{ends[1]}; exec "$@" 3<&13 4>&14', "-"]
        words = [*moved, program(), *options, "--remote-debugging-pipe", "about:blank"]
        self.process = subprocess.Popen(words, pass_fds=ends, stderr=subprocess.DEVNULL)
        for end in ends:
            os.close(end)
        self.input, self.output = os.fdopen(there[1], "wb", buffering=0), os.fdopen(here[0], "rb")
        self.end = threading.Timer(120, self.process.kill)  # a browser that hangs fails the tests
        self.end.start()
        self.number, self.session, self.events, self.said, self.asked = 0, None, [], [], []
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for name in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{name}.enable")

    def close(self):
        self.end.cancel()
        self.input.close()
        self.process.terminate()
        self.process.wait(10)
        self.output.close()

    def call(self, method, **parameters):
        """The answer of the browser."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.input.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, path, width=1280, height=900):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._next()

    def run(self, code):
        """The value of an expression of JavaScript."""
        found = self.call("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key, times=1):
        for _ in range(times):
            for kind in ("rawKeyDown", "keyUp"):
                self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])
            if key == "Enter":
                self.call("Input.dispatchKeyEvent", type="char", text="\r", key=key)

    def click(self, x, y):
        for kind in ("mousePressed", "mouseReleased"):
            pressed = 1 if kind == "mousePressed" else 0
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=pressed, clickCount=1)

    def _next(self):
        data = bytearray()
        while (byte := self.output.read(1)) != b"\0":
            assert byte, "the browser has ended"
            data += byte
        message = json.loads(data)
        if "method" in message:
            self.events.append(message)
            what, content = message["method"], message["params"]
            if what in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                self.said.append(json.dumps(content)[:500])
            elif what == "Page.javascriptDialogOpening":
                self.said.append(f"dialog {content['message']}")
            elif what == "Network.requestWillBeSent" and not content["request"]["url"].startswith("data:"):
                self.asked.append(content["request"]["url"])
        return message
