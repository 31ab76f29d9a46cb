"""What people write in an afternoon: a threading TCP server, and a thread that
pops items from Redis lists and sends each to every client, a line an item.

    baseline.py REDIS-SOCKET HOST:PORT LIST...

It loses what was popped and not yet read when it, or a client, dies.
"""

import socket
import socketserver
import sys
import threading
import time

POLL = 0.1  # seconds between two looks at empty lists

clients = set()
lock = threading.Lock()


class Redis:
    """Enough of RESP for LPOP."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.file = self.sock.makefile("rb")

    def lpop(self, key):
        key = key.encode()
        self.sock.sendall(b"*2\r\n$4\r\nLPOP\r\n$%d\r\n%s\r\n" % (len(key), key))
        line = self.file.readline()
        if not line.startswith(b"$"):
            raise RuntimeError("Redis answers %r" % line)
        size = int(line[1:])
        if size < 0:
            return None
        return self.file.read(size + 2)[:-2]


class Client(socketserver.BaseRequestHandler):
    def handle(self):
        with lock:
            clients.add(self.request)
        while self.request.recv(4096):
            pass

    def finish(self):
        with lock:
            clients.discard(self.request)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def relay(redis, keys):
    while True:
        idle = True
        for key in keys:
            if not clients:
                break
            item = redis.lpop(key)
            if item is None:
                continue
            idle = False
            with lock:
                for client in list(clients):
                    try:
                        client.sendall(item + b"\n")
                    except OSError:
                        clients.discard(client)
        if idle:
            time.sleep(POLL)


def main():
    path, address, *keys = sys.argv[1:]
    host, port = address.rsplit(":", 1)
    threading.Thread(target=relay, args=(Redis(path), keys), daemon=True).start()
    with Server((host, int(port)), Client) as server:
        server.serve_forever()


main()
