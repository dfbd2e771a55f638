"""A language server for plain text, as an editor starts it. It knows nothing of aioipc."""

import json
import sys
from typing import Any

documents: dict[str, str] = {}


def read() -> dict[str, Any] | None:
    """The next message from the editor; None when it has left."""
    length = 0
    while line := sys.stdin.buffer.readline().strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return json.loads(sys.stdin.buffer.read(length)) if length else None


def write(**message: Any) -> None:
    """Send a message to the editor."""
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    sys.stdout.buffer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    sys.stdout.buffer.flush()


def check(uri: str, text: str) -> None:
    """Tell what is wrong with a document, without being asked."""
    long = [number for number, line in enumerate(text.splitlines()) if len(line) > 40]
    problems = [{"line": number, "message": "over 40 characters"} for number in long]
    write(method="textDocument/publishDiagnostics", params={"uri": uri, "diagnostics": problems})


def answer(method: str, params: dict[str, Any]) -> Any:
    """The result of a request."""
    match method:
        case "initialize":
            return {"capabilities": {"hoverProvider": True}}
        case "textDocument/hover":
            line = documents[params["uri"]].splitlines()[params["line"]]
            return {"contents": f"{len(line.split())} words"}
    return None


while (message := read()) is not None and message["method"] != "exit":
    if "id" in message:
        write(id=message["id"], result=answer(message["method"], message.get("params", {})))
    elif message["method"] == "textDocument/didOpen":
        uri, text = message["params"]["uri"], message["params"]["text"]
        documents[uri] = text
        check(uri, text)
