#!/usr/bin/env python3
"""Prints the items of two lists, one a line, until it is told to stop.

    NATS_URL=nats://127.0.0.1:4222 python3 subscriber.py

It needs no library: it speaks the few lines of the NATS protocol that a
subscriber needs. PING is answered when everything before it is printed, so edged
keeps in Redis what was not. (For more than this, use the package nats-py.)
"""

import os
import signal
import socket
import sys
import time
from urllib.parse import urlsplit

SUBJECTS = ["events", "readings"]


def converse(connection, out):
    """Prints items until the connection ends."""
    stream = connection.makefile("rb")
    connection.sendall(b'CONNECT {"verbose":false,"pedantic":false,"name":"subscriber.py"}\r\n')
    for sid, subject in enumerate(SUBJECTS):
        connection.sendall(f"SUB {subject} {sid}\r\n".encode())
    while line := stream.readline():
        verb, *args = line.split()
        if verb == b"MSG":  # MSG subject sid [reply] length
            payload = stream.read(int(args[-1]))
            stream.read(2)
            out.write(args[0] + b" " + payload + b"\n")
        elif verb == b"PING":
            out.flush()
            connection.sendall(b"PONG\r\n")
        elif verb == b"-ERR":
            raise ConnectionError(line.decode().strip())


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = urlsplit(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    while True:
        try:
            with socket.create_connection((server.hostname, server.port or 4222)) as connection:
                converse(connection, sys.stdout.buffer)
        except OSError as err:
            print(f"{server.netloc}: {err}", file=sys.stderr)
        time.sleep(0.5)  # edged may restart


if __name__ == "__main__":
    main()
