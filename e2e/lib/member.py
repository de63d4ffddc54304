"""A server behind a load balancer, in this process: it answers `ok` to every GET."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Member(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args):
        pass


def member():
    """Starts one on loopback, and gives its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Member)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a load balancer that ends cuts its idle connections
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port
