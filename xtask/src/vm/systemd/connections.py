"""Servers that say who they are, and clients that notice every connection that breaks or moves. Runs in the machine.

    connections.py serve ADDRESS...                    on port 8080 of each
    connections.py dial ADDRESS PORT LINES TROUBLES    until it is ended; writes how many lines it exchanged, and what went wrong
"""

import os
import socket
import sys
import threading
import time

LONG = 20
PATIENCE = 60


def answer(connection, name):
    with connection, connection.makefile("rwb") as stream:
        for line in stream:
            stream.write(name + b" " + line)
            stream.flush()


def serve(address):
    listener = socket.create_server((address, 8080), backlog=128)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection, address.encode()), daemon=True).start()


class Dialler:
    def __init__(self, target, lines, troubles):
        self.target, self.lines, self.troubles = target, lines, troubles
        self.exchanged = 0
        self.lock = threading.Lock()

    def trouble(self, text):
        with self.lock, open(self.troubles, "a") as file:
            file.write(text + "\n")

    def exchange(self, stream, text):
        stream.write(text)
        stream.flush()
        name, _, rest = stream.readline().partition(b" ")
        if rest != text:
            raise OSError(f"unexpected answer {name + rest!r} to {text!r}")
        with self.lock:
            self.exchanged += 1
        return name

    def long(self):
        try:
            with socket.create_connection(self.target, PATIENCE) as connection, connection.makefile("rwb") as stream:
                met = self.exchange(stream, b"hello\n")
                while True:
                    now = self.exchange(stream, b"and\n")
                    if now != met:
                        self.trouble(f"a connection moved from {met} to {now}")
                    time.sleep(0.3)
        except OSError as error:
            self.trouble(f"a connection broke: {error}")

    def short(self):
        while True:
            try:
                with socket.create_connection(self.target, PATIENCE) as connection, connection.makefile("rwb") as stream:
                    self.exchange(stream, b"once\n")
            except OSError as error:
                self.trouble(f"a new connection failed: {error}")
            time.sleep(0.3)

    def run(self):
        for work in [self.long] * LONG + [self.short] * 2:
            threading.Thread(target=work, daemon=True).start()
        while True:
            time.sleep(0.2)
            with open(self.lines + ".new", "w") as file:
                file.write(f"{self.exchanged}\n")
            # A reader finds the old number or the new one, never half of it.
            os.replace(self.lines + ".new", self.lines)


if sys.argv[1] == "serve":
    threads = [threading.Thread(target=serve, args=(address,)) for address in sys.argv[2:]]
    [thread.start() for thread in threads]
else:
    address, port, lines, troubles = sys.argv[2:]
    Dialler((address, int(port)), lines, troubles).run()
