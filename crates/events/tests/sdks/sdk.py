"""CloudEvents' SDK for Python as a peer. `sdk.py publish URL` publishes events in every content mode and prints each as a
line of JSON: `{"mode": …, "attributes": …, "data": base64}`. `sdk.py parse` reads lines `{"mode": …, "headers": …, "body":
base64}` and prints what the SDK makes of them in the same way.
"""

import base64
import json
import sys
import urllib.request
from datetime import datetime, timezone

from cloudevents.core.bindings import http
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

FORMAT = JSONFormat()
TIME = datetime(2026, 11, 21, 10, 0, 0, 123000, timezone.utc)


def event(id, data, **attributes):
    head = {"id": id, "source": "/sdk/python", "type": "order.placed", "time": TIME, "specversion": "1.0"}
    return CloudEvent(attributes={**head, **attributes}, data=data)


def tell(mode, event):
    attributes = {name: value for name, value in event.get_attributes().items() if value is not None}
    attributes["time"] = attributes["time"].isoformat()
    content_type = attributes.get("datacontenttype")
    data = event.get_data()
    # What the SDK takes for text or JSON it has decoded.
    body = b"" if data is None else FORMAT.write_data(data, content_type)
    texts = {name: str(value) for name, value in attributes.items()}
    if content_type and "json" in content_type:
        body = json.dumps(json.loads(body), separators=(",", ":")).encode()
    print(json.dumps({"mode": mode, "attributes": texts, "data": base64.b64encode(body).decode()}))


def post(url, headers, body):
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 202, answer.status


def events(mode):
    return [
        event(f"{mode}-1", {"total": 7, "name": "Jürgen €"}, datacontenttype="application/json"),
        event(f"{mode}-2", "grüße", datacontenttype="text/plain; charset=utf-8", subject='Euro € 😀 100% "x"'),
        event(f"{mode}-3", b"\x00\xff\x80", datacontenttype="application/octet-stream", extension="a b"),
        event(f"{mode}-4", None),
        event(f"{mode}-5", {"a": [1, None, "x"]}, datacontenttype="application/vnd.shop+json", dataschema="https://example.com/a#b"),
    ]


def publish(url):
    for mode, convert in [("binary", http.to_binary), ("structured", http.to_structured)]:
        for one in events(mode):
            message = convert(one, FORMAT)
            post(url, message.headers, message.body)
            tell(mode, one)
    batched = events("batch")
    batch = b"[" + b",".join(FORMAT.write(one) for one in batched) + b"]"
    post(url, {"content-type": "application/cloudevents-batch+json"}, batch)
    for one in batched:
        tell("batch", one)


def parse():
    for line in sys.stdin:
        message = json.loads(line)
        body = base64.b64decode(message["body"])
        if message["mode"] == "batch":
            for one in json.loads(body):
                tell("batch", FORMAT.read(CloudEvent, json.dumps(one).encode()))
        else:
            read = http.from_http(http.HTTPMessage(headers=message["headers"], body=body), FORMAT)
            tell(message["mode"], read)


if sys.argv[1] == "publish":
    publish(sys.argv[2])
else:
    parse()
