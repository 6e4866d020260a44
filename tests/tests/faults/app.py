"""A web application as people write them: its health page pings the Redis and connects to the PostgreSQL that it was given."""

import os
import sys

import pg8000.dbapi
import redis
from flask import Flask, jsonify

port, cache, database, broken = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
app = Flask(__name__)


def ping_cache():
    redis.Redis(unix_socket_path=cache, socket_timeout=1).ping()


def query_database():
    connection = pg8000.dbapi.connect(user="zdd", database="postgres", unix_sock=database, timeout=1)
    try:
        connection.cursor().execute("SELECT 1")
    finally:
        connection.close()


def state(check):
    try:
        check()
        return "ok"
    except Exception as error:
        return f"down: {type(error).__name__}"


@app.get("/health")
def health():
    if os.path.exists(broken):
        # Well by its status, and ill by its own words.
        return jsonify(redis="ok", db="migrating")
    told = {"redis": state(ping_cache), "db": state(query_database) if database != "-" else "ok"}
    return jsonify(told), 200 if set(told.values()) == {"ok"} else 503


app.run(host="0.0.0.0", port=port, threaded=True)
