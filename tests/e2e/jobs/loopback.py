"""A threading HTTP server and its clients, over loopback inside the job. Usage: loopback.py ROUNDS"""
import hashlib
import http.client
import http.server
import multiprocessing
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = hashlib.sha256(body).hexdigest().encode() * (len(body) // 100 + 1)
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


def serve(ready):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    ready.send(server.server_port)
    server.serve_forever()


def client(task):
    port, n, rounds = task
    connection = http.client.HTTPConnection("127.0.0.1", port)
    total = hashlib.md5()
    for i in range(rounds):
        connection.request("POST", "/", b"%d" % (n * i) * (i % 5000))
        total.update(connection.getresponse().read())
    connection.close()
    return total.hexdigest()


def main():
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(theirs,))
    server.start()
    port = ours.recv()
    with multiprocessing.Pool(3) as pool:
        for n in range(int(sys.argv[1])):
            print(n, *pool.map(client, [(port, n * 3 + i, 60) for i in range(3)]), flush=True)
    server.terminate()
    server.join()
    print(server.exitcode)


main()
