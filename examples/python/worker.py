#!/usr/bin/env python3
"""Handles each item of a list at least once, across restarts and crashes of itself,
the server and Redis. The stream events is a Redis list at edged; the same program
consumes a stream of this name of a NATS server.

    NATS_URL=nats://127.0.0.1:4222 python3 worker.py

It needs no library: it speaks the few lines of the NATS protocol, and makes the two
requests to JetStream, that a worker needs. (For more than this, use the package
nats-py.)
"""

import json
import os
import signal
import socket
import sys
import time
import uuid
from urllib.parse import urlsplit

STREAM, CONSUMER, BATCH = "events", "worker", 100
SECOND = 1_000_000_000  # JetStream's times are in nanoseconds


class Client:
    """A connection with one inbox, to which everything comes."""

    def __init__(self, connection):
        self.connection = connection
        self.stream = connection.makefile("rb")
        self.inbox = f"_INBOX.{uuid.uuid4().hex}"
        options = {"verbose": False, "pedantic": False, "name": "worker.py", "headers": True, "no_responders": True}
        self.send(f"CONNECT {json.dumps(options)}\r\nSUB {self.inbox} 1\r\n".encode())

    def send(self, lines):
        self.connection.sendall(lines)

    def publish(self, subject, payload, reply=""):
        self.send(f"PUB {subject} {reply} {len(payload)}\r\n".encode() + payload + b"\r\n")

    def request(self, call, parameters):
        self.publish(f"$JS.API.CONSUMER.{call}", json.dumps(parameters).encode(), self.inbox)

    def receive(self):
        """Returns the next message: subject, reply subject, status, payload."""
        while line := self.stream.readline():
            verb, *args = line.split()
            if verb in (b"MSG", b"HMSG"):  # subject sid [reply] [length of the headers] length
                headers = int(args.pop(-2)) if verb == b"HMSG" else 0
                body = self.stream.read(int(args[-1]))
                self.stream.read(2)
                reply = args[2].decode() if len(args) == 4 else ""
                status = body[:headers].split(b"\r\n")[0].decode().partition(" ")[2]
                return args[0].decode(), reply, status, body[headers:]
            if verb == b"PING":
                self.send(b"PONG\r\n")
            elif verb == b"-ERR":
                raise ConnectionError(line.decode().strip())
        raise ConnectionError("closed")


def work(client, out):
    """Handles items until the connection ends."""
    # The server remembers a durable consumer and its acknowledgements.
    client.request(f"CREATE.{STREAM}.{CONSUMER}", {"stream_name": STREAM, "config": {
        "durable_name": CONSUMER,
        "ack_policy": "explicit",
        "ack_wait": 10 * SECOND,  # then an item without an acknowledgement comes again
    }})
    _, _, status, answer = client.receive()
    if status or "error" in json.loads(answer):
        raise ConnectionError(f"consumer: {status or json.loads(answer)['error']['description']}")

    while True:
        client.request(f"MSG.NEXT.{STREAM}.{CONSUMER}", {"batch": BATCH, "expires": 30 * SECOND, "idle_heartbeat": 5 * SECOND})
        for _ in range(BATCH):
            subject, reply, status, payload = client.receive()
            while status.startswith("100"):  # a heartbeat
                subject, reply, status, payload = client.receive()
            if status:  # such as 408, when the time of the request is over
                break
            out.write(subject.encode() + b" " + payload + b"\n")  # the work
            out.flush()
            client.publish(reply, b"+ACK")  # it is done; -NAK asks for the item again


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = urlsplit(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    while True:
        try:
            with socket.create_connection((server.hostname, server.port or 4222), timeout=15) as connection:
                work(Client(connection), sys.stdout.buffer)
        except OSError as err:
            print(f"{server.netloc}: {err}", file=sys.stderr)
        time.sleep(0.5)  # the server may restart


if __name__ == "__main__":
    main()
