"""A stranger in the class's network, for hosts.rs. He knows no secret.

capture INTERFACE PORT PATH...   prints, as JSON, one whole request to each of these paths that passes there
post                             sends what stands in standard input, a JSON list of [ADDRESS, PORT, REQUEST];
                                 prints how often which status came, as JSON
hold COUNT ADDRESS:PORT...       opens so many connections to each, begins a request on all and ends it on none;
                                 prints `held`; closes them when standard input ends
"""

import collections
import json
import resource
import socket
import struct
import sys

ALL_FRAMES = 3  # ETH_P_ALL: those that leave, too
ETHERNET_HEAD = 14
TCP = 6
SECONDS_MAX = 30


def capture(interface, port, paths):
    """Reads frames until one whole request to each path has passed."""
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_FRAMES))
    wire.bind((interface, 0))
    wire.settimeout(SECONDS_MAX)
    flows, found = {}, {}
    while len(found) < len(paths):
        frame = wire.recv(1 << 17)
        packet = frame[ETHERNET_HEAD:]
        if frame[12:14] != b"\x08\x00" or packet[9] != TCP:
            continue
        segment = packet[(packet[0] & 15) * 4 : struct.unpack("!H", packet[2:4])[0]]
        source, destination = struct.unpack("!HH", segment[:4])
        payload = segment[(segment[12] >> 4) * 4 :]
        if destination != int(port) or not payload:
            continue
        flow = (packet[12:16], source)
        if payload.startswith(b"POST "):
            flows[flow] = b""
        if flow not in flows:
            continue
        flows[flow] += payload
        head, end, body = flows[flow].partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        lengths = [int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")]
        path = lines[0].split(b" ")[1].decode()
        if end and path in paths and len(body) == sum(lengths):
            found[path] = flows.pop(flow).decode("latin-1")
    print(json.dumps(found))


def ask(address, port, request):
    """Sends one request; gives the status of the answer, or what happened instead."""
    try:
        with socket.create_connection((address, port), SECONDS_MAX) as stream:
            stream.sendall(request.encode("latin-1"))
            line = stream.makefile("rb").readline().split(b" ")
            return line[1].decode() if len(line) > 1 else "closed"
    except OSError as error:
        return type(error).__name__


def hold(count, addresses):
    """Holds connections until standard input ends."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (count * len(addresses) + 100,) * 2)
    held = []
    for address in addresses:
        host, port = address.rsplit(":", 1)
        for _ in range(count):
            try:
                stream = socket.create_connection((host, int(port)), SECONDS_MAX)
                stream.sendall(b"POST /report HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n")
                held.append(stream)
            except OSError:
                pass  # The node has had enough of him.
    print("held", flush=True)
    sys.stdin.read()


def main():
    """Does what the arguments say."""
    what, *words = sys.argv[1:]
    if what == "capture":
        capture(words[0], words[1], words[2:])
    elif what == "post":
        print(json.dumps(collections.Counter(ask(*one) for one in json.load(sys.stdin))))
    else:
        hold(int(words[0]), words[1:])


main()
