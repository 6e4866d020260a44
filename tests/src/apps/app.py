"""An application: lines of text for its users on one port, a health page by Flask on another.

It needs a PostgreSQL, on one session that it keeps, and a Redis. Without them it has nothing to say to its users, and its health page says
which of them is missing.
"""

import argparse
import socketserver
import threading

import flask
import psycopg
import redis

parser = argparse.ArgumentParser()
for name in ("version", "backend", "postgres", "redis"):
    parser.add_argument("--" + name, required=True)
for name in ("port", "health-port"):
    parser.add_argument("--" + name, required=True, type=int)
args = parser.parse_args()

who = f"{args.version} {args.backend}".encode()
cache = redis.Redis(unix_socket_path=args.redis, socket_timeout=1)
turn = threading.Lock()
session = None


def connect():
    return psycopg.connect(
        host=args.postgres, user="zdd", dbname="postgres", connect_timeout=1, autocommit=True
    )


def query():
    """One query on the session; one that is broken is opened anew the next time."""
    global session
    with turn:
        if session is None or session.closed:
            session = connect()
        session.execute("SELECT 1")


class User(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self):
        query()
        cache.incr("users")
        address, port = self.client_address
        self.wfile.write(b"HELLO %s %s:%d\n" % (who, address.encode(), port))
        for line in self.rfile:
            text = line.rstrip(b"\n")
            if text == b"Q":
                self.wfile.write(who + b"\n")
                return
            self.wfile.write(text + b" " + who + b"\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request, client_address):
        """A user is hung up on: without its database it has no answer."""


app = flask.Flask(__name__)


def state_of(ask):
    try:
        ask()
    except Exception as error:
        return "down: " + type(error).__name__
    return "ok"


@app.get("/health")
def health():
    state = {"db": state_of(lambda: connect().close()), "redis": state_of(cache.ping)}
    return state, 200 if set(state.values()) == {"ok"} else 503


server = Server(("0.0.0.0", args.port), User)
threading.Thread(target=server.serve_forever, daemon=True).start()
app.run(host="0.0.0.0", port=args.health_port, threaded=True)
