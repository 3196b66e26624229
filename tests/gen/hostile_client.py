#!/usr/bin/env python3
"""hostile_client.py PORT KIND: what a port hears that is open to everyone.

noise    random bytes
header   a proper ZMTP 3 handshake without keys, then a frame that claims 2^62 bytes
stranger the same handshake, then messages that are no greeting, of the largest size that is let through
hello    the same handshake and the greeting of a writer, then bytes that are no stream; prints what comes back
flood    as stranger, in spite of the credits, after a greeting; never reads
noack    a reader that takes all of a small stream and leaves without a word
wrongack a reader that acknowledges another number of bytes
idle     a hundred connections that say nothing
"""
import os
import socket
import struct
import sys
import time

port, kind = int(sys.argv[1]), sys.argv[2]


def connect():
    s = socket.create_connection(("127.0.0.1", port), 5)
    s.settimeout(5)
    return s


def frame(body, flags=0):
    if len(body) > 255:
        return struct.pack(">BQ", flags | 2, len(body)) + body
    return struct.pack(">BB", flags, len(body)) + body


def handshake(s):
    s.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31))
    got = b""
    while len(got) < 64:
        piece = s.recv(64 - len(got))
        if not piece:
            sys.exit("closed in the greeting")
        got += piece
    ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
    s.sendall(frame(ready, 4))
    return s


def read_all(s):
    """Every message, with a credit for each, until none comes for a second; the number of bytes of the stream."""
    got, total = b"", 0
    s.settimeout(1)
    while True:
        try:
            piece = s.recv(1 << 16)
        except TimeoutError:
            return total
        if not piece:
            sys.exit("closed by the writer")
        got += piece
        while len(got) >= 9:
            n, at = (struct.unpack(">Q", got[1:9])[0], 9) if got[0] & 2 else (got[1], 2)
            if len(got) < at + n:
                break
            if not got[0] & 4 and got[at : at + 1] == b"D":
                total += n - 1
                s.sendall(frame(b"C\x01"))
            got = got[at + n :]


def main():
    if kind == "noise":
        for n in (1, 10, 64, 1000, 100000):
            s = connect()
            try:
                s.sendall(os.urandom(n))
            except OSError:
                pass
            s.close()
        return
    if kind == "idle":
        held = [connect() for _ in range(100)]
        time.sleep(1)
        return
    s = handshake(connect())
    if kind == "header":
        s.sendall(struct.pack(">BQ", 2, 1 << 62) + bytes(100000))
    elif kind == "stranger":
        for _ in range(64):
            s.sendall(frame(b"D" + bytes(1 << 20)))
    elif kind == "hello":
        s.sendall(frame(b"Hsq\x01w") + frame(b"D" + os.urandom(1000)))
    elif kind == "flood":
        s.sendall(frame(b"Hsq\x01w"))
        time.sleep(0.2)
        sent = 0
        try:
            while sent < 400:
                s.sendall(frame(b"D" + bytes(1 << 20)))
                sent += 1
        except OSError:
            pass
        print("took", sent)
        return
    elif kind in ("noack", "wrongack"):
        s.sendall(frame(b"Hsq\x01r"))
        total = read_all(s)
        print("read", total)
        if kind == "wrongack":
            s.sendall(frame(b"A" + struct.pack(">Q", total - 1)))
    time.sleep(0.3)
    try:
        print(s.recv(1000))
    except OSError as e:
        print(e)


try:
    main()
except OSError as e:
    print("refused:", e)
